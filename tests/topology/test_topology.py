"""Whom to prune, how to share, whom to grow: hand-written vectors, then properties."""

import math
from fractions import Fraction
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import regrow
from helpers import EXAMPLES, fed, feed
from oracle import naive
from regrow import topology

INF = math.inf


@pytest.mark.parametrize(
    ("scores", "k", "chosen"),
    [
        ([1, 3, 2], 1, [1]),
        ([1, 3, 2], 2, [1, 2]),
        ([5, 5, 5, 5], 2, [0, 1]),
        ([1, 3, 3, 2, 3], 2, [1, 2]),
        ([3, 1, 3, 1, 1], 3, [0, 1, 2]),
        ([-1, -2, -1], 1, [0]),
        ([0.0, -0.0, 0.0], 1, [0]),
        ([-INF, 1, -INF, 0], 2, [1, 3]),
        ([-INF, 1, -INF, -INF], 2, [0, 1]),
        ([INF, 1, INF], 1, [0]),
        ([2, 1], 0, []),
        ([], 0, []),
        ([4, 4], 2, [0, 1]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_largest(scores, k, chosen, dtype):
    found = topology.largest(torch.tensor(scores, dtype=dtype), k)
    assert found.tolist() == chosen
    assert found.dtype == torch.int64


@pytest.mark.parametrize(
    ("scores", "k", "chosen"),
    [([1, 3, 2], 1, [0]), ([2, 1, 1, 1], 2, [1, 2]), ([7, 7, 7], 1, [0]), ([1, 0], 0, []), ([INF, 1, INF], 2, [0, 1])],
)
def test_smallest(scores, k, chosen):
    assert topology.smallest(torch.tensor(scores, dtype=torch.float32), k).tolist() == chosen


@pytest.mark.parametrize("k", [-1, 4])
@pytest.mark.parametrize("choose", [topology.largest, topology.smallest])
def test_choosing_more_than_there_are_is_refused(choose, k):
    with pytest.raises(ValueError, match=f"{k} of 3"):
        choose(torch.zeros(3), k)


small_scores = st.lists(st.integers(-3, 3), min_size=1, max_size=30)


@EXAMPLES
@given(small_scores, st.data())
def test_choices_equal_a_sort_with_position_as_tie_break(scores, data):
    k, block = data.draw(st.integers(0, len(scores))), data.draw(st.sampled_from([1, 4, 2**20]))
    with mock.patch.object(topology.selection, "_BLOCK", block):
        by_size = sorted(range(len(scores)), key=lambda position: (-scores[position], position))
        assert topology.largest(torch.tensor(scores, dtype=torch.float32), k).tolist() == sorted(by_size[:k])
        by_size = sorted(range(len(scores)), key=lambda position: (scores[position], position))
        assert topology.smallest(torch.tensor(scores, dtype=torch.float32), k).tolist() == sorted(by_size[:k])


# Position:            0     1     2    3    4    5    6    7
PRUNE_AND_GROW = [
    # weights; gradients = M of all positions; active; what is active after pruning and growing half
    pytest.param([1, -2, 3, -4, 0, 0, 0, 0], [0, 0, 1, 1, 5, -6, 0, 0], {2, 3, 4, 5}, id="smallest-out-largest-in"),
    pytest.param([1, -1, 1, 4, 0, 0, 0, 0], [0, 0, 0, 1, 2, 2, -2, 2], {2, 3, 4, 5}, id="ties-to-lower-position"),
    pytest.param([1, -2, 3, -4, 0, 0, 0, 0], [7, 0, 1, 1, 0, -6, 0, 0], {0, 2, 3, 5}, id="just-pruned-comes-back"),
    pytest.param([1, -2, 3, -4, 0, 0, 0, 0], [0, 9, 1, 1, 0, 0, 0, 9], {1, 2, 3, 7}, id="tie-with-just-pruned"),
]


@pytest.mark.parametrize(("weights", "gradient", "expected"), PRUNE_AND_GROW)
def test_prune_and_grow_order(weights, gradient, expected):
    model = fed({"a": range(4)}, a=[float(w) for w in weights])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    updater = regrow.SparseMomentum(model, optimizer, total_steps=9, update_every=1, schedule="constant")
    feed(model, optimizer, a=[gradient])
    weight = regrow.sparse_weights(model)["a"]
    assert set(weight.indices.tolist()) == expected
    kept = {2, 3}
    assert [weight.values[i].item() for i, p in enumerate(weight.indices.tolist()) if p not in kept] == [0.0, 0.0]
    assert [weights[p] for p in kept] == [model.a[0, p].item() for p in kept]
    assert updater.history[0]["pruned"] == updater.history[0]["grown"] == 2


@pytest.mark.parametrize(
    ("rate", "active", "numel", "importance", "counts"),
    [
        (0.5, [10], [100], [1.0], [5]),
        (0.5, [5], [100], [1.0], [3]),  # ceil
        (0.5, [1], [100], [1.0], [0]),  # one always remains
        (0.99, [4], [100], [1.0], [3]),
        (0.0, [10, 4], [100, 10], [0.5, 0.5], [0, 0]),
        (0.5, [9, 9], [10, 10], [0.6, 0.4], [1, 5]),  # only the important one is spared: min(p, sparsity)
        (0.5, [9, 9], [10, 10], [0.5, 0.5], [5, 5]),  # 1/L exactly is not more
        (0.5, [8, 2], [10, 10], [0.9, 0.1], [4, 1]),  # 80 % exactly is not more
        (0.05, [9, 2], [10, 10], [0.9, 0.1], [1, 1]),  # the rate is less than the sparsity
        (0.5, [10, 2], [10, 10], [0.9, 0.1], [0, 1]),  # a full important layer gives nothing
        (0.5, [9, 9], [10, 10], None, [5, 5]),
    ],
)
def test_prune_counts(rate, active, numel, importance, counts):
    assert topology.prune_counts(rate, active, numel, importance) == counts


@pytest.mark.parametrize(
    ("total", "importance", "free", "counts"),
    [
        (10, [0.5, 0.5], [10, 10], [5, 5]),
        (3, [0.5, 0.5], [10, 10], [2, 1]),  # equal remainders: the first layer
        (10, [0.7, 0.2, 0.1], [4, 10, 10], [4, 4, 2]),  # excess 3 equally: 2 + 1.5, 1 + 1.5, remainder tie
        (10, [0.8, 0.2, 0.0], [1, 4, 9], [1, 4, 5]),  # caps one after the other; importance 0 takes its equal part
        (7, [1, 0], [3, 4], [3, 4]),  # all that is free
        (0, [1, 1], [3, 4], [0, 0]),
        (2, [3, 1], [0, 5], [0, 2]),
        (6, [20, 10], [10, 10], [4, 2]),  # need not be normalised
    ],
)
def test_share(total, importance, free, counts):
    assert topology.redistribute(total, importance, free) == counts


@pytest.mark.parametrize(
    ("total", "importance", "free", "message"),
    [
        (5, [1.0], [4], "5 weights .* 4 free"),
        (1, [0.0, 0.0], [4, 4], "not all 0"),
        (1, [math.nan, 1.0], [4, 4], "finite"),
        (1, [math.inf, 1.0], [4, 4], "finite"),
        (1, [-1.0, 2.0], [4, 4], ">= 0"),
    ],
)
def test_share_refuses(total, importance, free, message):
    with pytest.raises(ValueError, match=message):
        topology.redistribute(total, importance, free)


@st.composite
def requests(draw):
    """(total, importance, free) that can be shared."""
    layers = draw(st.integers(1, 6))
    size = st.one_of(st.integers(0, 6), st.integers(0, 10**6))
    free = draw(st.lists(size, min_size=layers, max_size=layers))
    number = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1e-30, 1e30]), st.integers(0, 4))
    importance = draw(st.lists(number, min_size=layers, max_size=layers).filter(any))
    return draw(st.integers(0, sum(free))), importance, free


@EXAMPLES
@given(requests())
def test_share_is_exact_and_equals_the_oracle(request):
    total, importance, free = request
    counts = topology.redistribute(total, importance, free)
    assert sum(counts) == total
    assert all(0 <= count <= limit for count, limit in zip(counts, free, strict=True))
    assert counts == naive.share(total, [Fraction(r) for r in importance], free)


@EXAMPLES
@given(st.lists(st.fractions(0, 9, max_denominator=7), min_size=1, max_size=6))
def test_rounding_equals_the_oracle(quotas):
    total = math.floor(sum(quotas))
    quotas[0] += total + 1 - sum(quotas)
    counts = topology.round_to_total(quotas, total + 1)
    assert sum(counts) == total + 1
    assert all(abs(count - quota) < 1 for count, quota in zip(counts, quotas, strict=True))
    assert counts == naive.largest_remainder(total + 1, quotas)


@EXAMPLES
@given(
    st.floats(0, 0.99),
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40), st.integers(1, 8)), min_size=1, max_size=6),
)
def test_prune_counts_equal_the_oracle(rate, layers):
    active = [m for m, _, _ in layers]
    numel = [m + extra for m, extra, _ in layers]
    importance = [Fraction(r, sum(r for _, _, r in layers)) for _, _, r in layers]
    counts = topology.prune_counts(rate, active, numel, [float(r) for r in importance])
    assert all(0 <= k < m for k, m in zip(counts, active, strict=True))
    if all(abs(r - Fraction(1, len(layers))) > Fraction(1, 10**9) for r in importance):
        assert counts == naive.prune_counts(rate, active, numel, importance)


@st.composite
def budgets(draw):
    total, importance, free = draw(requests())
    layers = len(free)
    kept = draw(st.lists(st.integers(0, 100), min_size=layers, max_size=layers))
    cost = draw(st.lists(st.sampled_from([0.0, 1.0, 2.0, 72.0, 1024.0]), min_size=layers, max_size=layers))
    cheapest = 0
    left = total
    for layer in sorted(range(layers), key=cost.__getitem__):
        count = min(left, free[layer])
        cheapest, left = cheapest + cost[layer] * count, left - count
    base = sum(c * a for c, a in zip(cost, kept, strict=True))
    slack = draw(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])) * draw(st.integers(0, 10**4))
    return total, importance, free, kept, cost, base + cheapest + slack, base + cheapest


@EXAMPLES
@given(budgets())
def test_a_feasible_budget_is_never_exceeded(request):
    total, importance, free, kept, cost, budget, least = request
    counts = topology.redistribute_within_budget(total, importance, free, kept, cost, budget)
    assert sum(counts) == total
    assert all(0 <= count <= limit for count, limit in zip(counts, free, strict=True))
    spent = sum(c * (a + b) for c, a, b in zip(cost, kept, counts, strict=True))
    assert spent <= max(budget, least)
    plain = topology.redistribute(total, importance, free)
    if sum(c * (a + b) for c, a, b in zip(cost, kept, plain, strict=True)) <= budget:
        assert counts == plain  # a budget that does not bind changes nothing


def test_a_budget_that_is_out_of_reach_goes_to_the_cheapest():
    assert topology.redistribute_within_budget(5, [0.9, 0.1], [9, 3], [4, 4], [10.0, 1.0], budget=1.0) == [2, 3]


def test_layers_that_cost_nothing_can_be_shared_among_when_the_budget_is_spent_elsewhere():
    assert sum(topology.redistribute_within_budget(3, [0.5, 0.5], [4, 4], [1, 1], [0.0, 0.0], budget=-10.0)) == 3
