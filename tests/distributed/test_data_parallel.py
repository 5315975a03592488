"""Two ranks train what one process would."""

import pytest

pytest.importorskip("lightning_fabric", reason="the recipes need: pip install 'regrow[recipes]'")

SCENARIOS = "data_parallel"
NAMES = [
    "lenet5_masked",
    "lenet5_compressed",
    "gradients_by_winograds_algorithm",
    "made_before_or_after_wrapping_with_either_optimizer",
    "every_method",
    "weights_become_compressed_at_the_same_update",
    "gradients_are_accumulated",
    "unused_parameters_count_as_zeros",
    "a_nested_net_is_refused_with_the_remedy_that_works",
    "nothing_dense_is_trained",
    "bfloat16_and_batch_norm",
    "ranks_that_differ_are_stopped",
    "signs_that_differ_are_seen_in_any_precision",
    "a_frozen_layer_stays_as_it_is",
    "without_an_updater_nobody_keeps_ranks_alike",
    "few_bytes_travel",
    "the_loop_of_the_page_runs",
    "a_checkpoint_holds_the_updater_of_every_rank",
]


def test_all_scenarios_are_asked_for(ranks):
    assert list(ranks) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks(ranks, name):
    assert ranks[name] is None, "\n".join(ranks[name])
