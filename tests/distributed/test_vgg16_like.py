"""Two ranks train VGG16-like as one process would."""

import pytest

pytest.importorskip("lightning_fabric", reason="the recipes need: pip install 'regrow[recipes]'")

SCENARIOS = "vgg16_like"
NAMES = ["ten_updates_are_those_of_one_process", "parameters_are_the_same_whatever_batch_norm_saw"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks(ranks, name):
    assert list(ranks) == NAMES
    assert ranks[name] is None, "\n".join(ranks[name])
