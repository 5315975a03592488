"""FSDP2 with masked storage: shards of masks and momentum, and the topology of a single process."""

import pytest

pytest.importorskip("lightning_fabric", reason="the recipes need: pip install 'regrow[recipes]'")

SCENARIOS = "fully_sharded"
NAMES = [
    "three_updates_are_those_of_one_process",
    "a_checkpoint_goes_on_to_the_same_bits",
    "the_model_of_the_page_trains",
    "compressed_weights_are_refused",
]


def test_all_scenarios_are_asked_for(ranks):
    assert list(ranks) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks(ranks, name):
    assert ranks[name] is None, "\n".join(ranks[name])
