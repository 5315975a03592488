"""The oracle itself is checked against numbers worked out by hand, and against torch's own optimizers."""

import copy
import math
from fractions import Fraction

import pytest
import torch

from .naive import (
    NaiveAdam,
    NaiveSGD,
    NaiveSparseMomentum,
    choose_grow,
    choose_prune,
    clip_factor,
    copy_weights,
    dense_gradients,
    free_positions,
    importance,
    initial_counts,
    largest_remainder,
    mean_magnitude,
    prune_counts,
    prune_rate,
    share,
)


def row(*values):
    """A 1 x n weight, gradient or momentum."""
    return torch.tensor([values], dtype=torch.float64)


def on(*positions, size):
    """A 1 x size mask with these positions active."""
    return torch.tensor([[i in positions for i in range(size)]])


def run(weights, masks, optimizer, steps, **settings):
    """An oracle after these steps, each a dict name -> gradient."""
    oracle = NaiveSparseMomentum(weights, masks, optimizer, **settings)
    for gradients in steps:
        oracle.step(gradients)
    return oracle


# ---------------------------------------------------------------- initial counts


@pytest.mark.parametrize(
    ("shapes", "density", "distribution", "expected"),
    [
        # 26 positions, 13 active; half of 6 and half of 20.
        ([(2, 3), (4, 5)], 0.5, "uniform", [3, 10]),
        # 21 positions, round(10.5) = 10 (half to even, as Python rounds); quotas 10/3 each: 3 3 3, one left,
        # all remainders 1/3, the first layer takes it.
        ([(1, 7), (1, 7), (1, 7)], 0.5, "uniform", [4, 3, 3]),
        # 102 positions, round(5.1) = 5; the small layer's quota 5*2/102 < 1 is raised to 1, the other has 4.
        ([(1, 2), (10, 10)], 0.05, "uniform", [1, 4]),
        # Linear layers under er claim n * (i+o)/(i*o) = i+o: 4 and 16. 17 active: 3.4 and 13.6 -> 3 and 14.
        ([(2, 2), (8, 8)], 0.25, "er", [3, 14]),
        # 34 active: 6.8 and 27.2, but the first holds 4: capped, the rest 30.
        ([(2, 2), (8, 8)], 0.5, "er", [4, 30]),
        # conv 4x2x3x3 (72 positions) and linear 4x8 (32), 26 active. er: conv density ~ (4+2)/8, claim 54;
        # linear (4+8)/32, claim 12. 26*54/66 = 21.27 and 26*12/66 = 4.73 -> 21 and 5.
        ([(4, 2, 3, 3), (4, 8)], 0.25, "er", [21, 5]),
        # erk: the claims are the sums of the dims, 4+2+3+3 = 12 and 4+8 = 12.
        ([(4, 2, 3, 3), (4, 8)], 0.25, "erk", [13, 13]),
        # Claims 4, 16, 11 (= 1+10); 4+64+10 = 78 positions, 39 active; 5.03, 20.1, 13.8: the first is capped
        # at 4, the third at 10, the second has the remaining 25.
        ([(2, 2), (8, 8), (1, 10)], 0.5, "erk", [4, 25, 10]),
        # The lower bound under er: claims 200, 11, 2; 10,011 positions, round(100.11) = 100 active.
        # 93.9, 5.2, .94: the last is raised to 1; 99 by 200 and 11 is 93.84 and 5.16.
        ([(100, 100), (1, 10), (1, 1)], 0.01, "er", [94, 5, 1]),
        # Everything.
        ([(2, 2), (3, 1)], 1.0, "er", [4, 3]),
    ],
)
def test_initial_counts(shapes, density, distribution, expected):
    assert initial_counts(shapes, density, distribution) == expected


def test_initial_counts_refuses_too_few():
    with pytest.raises(ValueError, match="at least one"):
        initial_counts([(1, 5), (1, 5)], 0.1, "uniform")  # 1 active weight, two layers


def test_largest_remainder():
    # Floors 1 0 2 and one left; remainders .25 .75 0: the second layer's.
    assert largest_remainder(4, [Fraction(5, 4), Fraction(3, 4), Fraction(2)]) == [1, 1, 2]
    # Floors 1 0 2 0 and two left; remainders .25 .75 .5 .5: the second's, then the earlier of the equals.
    quotas = [Fraction(5, 4), Fraction(3, 4), Fraction(5, 2), Fraction(1, 2)]
    assert largest_remainder(5, quotas) == [1, 1, 3, 0]


# ---------------------------------------------------------------- the five steps


@pytest.mark.parametrize(
    ("kind", "step", "total", "expected"),
    [
        # 0.005 + 0.495 * (1 + cos)/2 with cos = 1, cos 60° = 1/2, 0, cos 120° = -1/2, -1
        ("cosine", 0, 6, 0.5),
        ("cosine", 2, 6, 0.005 + 0.495 * 0.75),  # 0.37625
        ("cosine", 3, 6, 0.2525),
        ("cosine", 4, 6, 0.12875),
        ("cosine", 6, 6, 0.005),
        ("linear", 0, 4, 0.5),
        ("linear", 1, 4, 0.375),
        ("linear", 4, 4, 0.0),
        ("constant", 3, 4, 0.5),
    ],
)
def test_prune_rate(kind, step, total, expected):
    assert prune_rate(step, total, 0.5, kind) == pytest.approx(expected, abs=1e-15)


def test_importance():
    assert mean_magnitude([1.0, -3.0]) == 2
    assert importance([2.0, 0.5]) == [Fraction(4, 5), Fraction(1, 5)]
    assert importance([0.0, 0.0]) == [0, 0]


@pytest.mark.parametrize(
    ("rate", "active", "sizes", "r", "expected"),
    [
        # ceil(.25*5 = 1.25) = 2; ceil(.25*8) = 2
        (0.25, [5, 8], [100, 100], [0.5, 0.5], [2, 2]),
        # m - 1 limits: 3 of 3 would go, 2 do; a single weight stays; an empty layer has nothing to give
        (0.9, [3, 1, 0], [9, 9, 9], [0.4, 0.3, 0.3], [2, 0, 0]),
        # 9 of 10 is more than 80 % and .75 > 1/2: sparsity .1, ceil(.1*9) = 1; the other is pruned at .5
        (0.5, [9, 4], [10, 10], [0.75, 0.25], [1, 2]),
        # the same layer with importance 1/2 = 1/L, or less, is pruned at .5: ceil(4.5) = 5
        (0.5, [9, 4], [10, 10], [0.5, 0.5], [5, 2]),
        (0.5, [9, 4], [10, 10], [0.25, 0.75], [5, 2]),
        # exactly 80 % is not more than 80 %
        (0.5, [8, 4], [10, 10], [0.75, 0.25], [4, 2]),
        # a full important layer has sparsity 0 and is not pruned
        (0.5, [10, 4], [10, 10], [0.75, 0.25], [0, 2]),
        # min: at sparsity 1/8 the rate 1/16 is already smaller; ceil(14/16) = 1, where 1/8 would take 2
        (0.0625, [14, 4], [16, 16], [0.75, 0.25], [1, 1]),
        (0.5, [14, 4], [16, 16], [0.75, 0.25], [2, 2]),
        # alone, r = 1 is not more than 1/L = 1
        (0.5, [9], [10], [1.0], [5]),
    ],
)
def test_prune_counts(rate, active, sizes, r, expected):
    assert prune_counts(rate, active, sizes, [Fraction(x) for x in r]) == expected


def test_choose_prune_takes_the_smallest_magnitudes_lower_index_first():
    weights = {7: 0.5, 0: -3.0, 2: -0.5, 9: 0.25, 4: 0.5}
    assert choose_prune(weights, 1) == [9]
    assert choose_prune(weights, 3) == [9, 2, 4]  # 2, 4 and 7 tie at 0.5
    assert choose_prune(weights, 0) == []


def test_choose_grow_takes_the_largest_magnitudes_lower_index_first():
    momenta = {8: 2.0, 1: -2.0, 3: 0.0, 5: -7.0, 2: 0.0}
    assert choose_grow(momenta, 1) == [5]
    assert choose_grow(momenta, 2) == [5, 1]  # 1 and 8 tie at 2
    assert choose_grow(momenta, 4) == [5, 1, 8, 2]  # zeros tie too


def test_free_positions():
    assert free_positions([5, 8], [10, 8], [2, 3]) == [7, 3]
    # floor(.55*10) = 5 -> 5-5+2 = 2; no limit -> 8-8+3; floor(.5*8) - 7 + 1 = -2 -> 0
    assert free_positions([5, 8, 7], [10, 8, 8], [2, 3, 1], [0.55, None, 0.5]) == [2, 3, 0]


@pytest.mark.parametrize(
    ("total", "r", "free", "expected"),
    [
        # 10 * (.5, .3, .2) fits
        (10, ["1/2", "3/10", "1/5"], [9, 9, 9], [5, 3, 2]),
        # 7 * (1/2, 1/4, 1/4) = 3.5, 1.75, 1.75 -> 3 1 1, two left, to the two .75
        (7, ["1/2", "1/4", "1/4"], [9, 9, 9], [3, 2, 2]),
        # 2 * 1/4 each: all remainders tie, the first two layers win
        (2, ["1/4", "1/4", "1/4", "1/4"], [9, 9, 9, 9], [1, 1, 0, 0]),
        # 8, 1, 1; the first takes 2, excess 6 = 3 + 3 although the others' importances would be ...
        (10, ["4/5", "1/10", "1/10"], [2, 9, 9], [2, 4, 4]),
        # ... divided equally, not in proportion: 8, 1.5, .5 -> excess 6 -> 4.5, 3.5 -> tie, first
        (10, ["16/20", "3/20", "1/20"], [2, 9, 9], [2, 5, 3]),
        # a cascade: 12, 3, 1, 0 with room 4, 5, 9, 9: excess 8 by 3 -> 5.67, 3.67, 2.67; the second is over
        # by 2/3, so the others get 1/3 more: 4, 3
        (16, ["12/16", "3/16", "1/16", "0"], [4, 5, 9, 9], [4, 5, 4, 3]),
        # two over at once: 6, 6, 2, 2 with room 3, 4, 9, 2: excess 3 + 2 goes to the third only, the last is
        # exactly full (2 = 2)
        (16, ["6/16", "6/16", "2/16", "2/16"], [3, 4, 9, 2], [3, 4, 7, 2]),
        # just enough room, and no room
        (6, ["1", "0"], [2, 4], [2, 4]),
        (3, ["1/2", "1/2"], [0, 9], [0, 3]),
        (0, ["1/2", "1/2"], [4, 4], [0, 0]),
        # r need not be normalised (momentum-per-flop)
        (10, ["4", "1"], [9, 9], [8, 2]),
    ],
)
def test_share(total, r, free, expected):
    assert share(total, [Fraction(x) for x in r], free) == expected


def test_share_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="do not fit"):
        share(5, [Fraction(1)], [4])


# ---------------------------------------------------------------- one update by hand, window="all"


A_AND_B = {"a": row(1, -2, 0, 0), "b": row(3, 4, 0, 0)}
ACTIVE_01 = {"a": on(0, 1, size=4), "b": on(0, 1, size=4)}
FIRST = {"a": row(1, 3, -2, 2), "b": row(0.5, 0.5, 0, -4)}
CONSTANT = {"prune_rate": 0.5, "schedule": "constant"}


def test_one_update_by_hand():
    # Step 1: torch's first buffer is g. a: buffers 1 3, weights 1-.5 = .5, -2-1.5 = -3.5; M of missing -2 2.
    #         b: buffers .5 .5, weights 2.75, 3.75; M of missing 0 -4.
    # importance: means 2 and .5 -> .8 and .2. k = ceil(.5*2) = 1 each, K = 2 (m - 1 = 1 allows it).
    # q = 1.6 and .4, free 3 and 3 -> floors 1 0, the remainder .6 wins -> 2 and 0.
    # a: prune 0 (.5 < 3.5); candidates 0: 1, 2: -2, 3: 2 -> grow 2, 3. b: prune 0 (2.75), grow none.
    oracle = run(A_AND_B, ACTIVE_01, NaiveSGD(lr=0.5, momentum=0.5), [FIRST], total_steps=2, update_every=1, **CONSTANT)
    assert torch.equal(oracle.masks["a"], on(1, 2, 3, size=4))
    assert torch.equal(oracle.masks["b"], on(1, size=4))
    assert torch.equal(oracle.weights["a"], row(0, -3.5, 0, 0))
    assert torch.equal(oracle.weights["b"], row(0, 3.75, 0, 0))
    assert torch.equal(oracle.state["a"]["momentum_buffer"], row(0, 3, -2, 2))  # grown ones keep M
    assert torch.equal(oracle.momentum["a"], row(1, 3, -2, 2))
    assert torch.equal(oracle.momentum["b"], row(0.5, 0.5, 0, -4))
    common = {"step": 1, "prune_rate": 0.5, "pruned": 1}
    assert oracle.history == [
        {**common, "name": "a", "grown": 2, "active": 3, "importance": 0.8},
        {**common, "name": "b", "grown": 0, "active": 1, "importance": 0.2},
    ]

    # Step 2 = total_steps: no update. M of the pruned 0 goes on from the optimizer's buffer: .5*1 + 8 = 8.5.
    # a: buffers 1.5 -1 1 -> weights -4.25 .5 -.5.  b has no gradient: nothing of it moves, not even M.
    oracle.step({"a": row(8, 0, 0, 0), "b": None})
    assert torch.equal(oracle.weights["a"], row(0, -4.25, 0.5, -0.5))
    assert torch.equal(oracle.momentum["a"], row(8.5, 1.5, -1, 1))
    assert torch.equal(oracle.momentum["b"], row(0.5, 0.5, 0, -4))
    assert torch.equal(oracle.weights["b"], row(0, 3.75, 0, 0))
    assert len(oracle.history) == 2


def test_regrown_weight_restarts_at_zero_with_its_own_state():
    # One layer, lr 0, mu .9. Buffers 9 1; prune position 0 (|1| < |2|): its M = 9 beats 3, so it comes back,
    # at 0, with buffer 9 (not 9 / (1 - .9), as a grown one would have after a window of 1).
    for window in ("all", 1):
        oracle = run({"a": row(1, 2, 0)}, {"a": on(0, 1, size=3)}, NaiveSGD(lr=0.0), [{"a": row(9, 1, 3)}],
                     total_steps=9, update_every=1, window=window, **CONSTANT)  # fmt: skip
        assert torch.equal(oracle.weights["a"], row(0, 2, 0))
        assert torch.equal(oracle.masks["a"], on(0, 1, size=3))
        assert torch.equal(oracle.state["a"]["momentum_buffer"], row(9, 1, 0))
        assert (oracle.history[0]["pruned"], oracle.history[0]["grown"]) == (1, 1)


def test_updates_happen_at_multiples_before_the_end():
    steps = [{"a": row(1, 1, 1)}] * 9
    weights, masks, settings = {"a": row(1, 2, 0)}, {"a": on(0, 1, size=3)}, {"total_steps": 6}
    oracle = run(weights, masks, NaiveSGD(lr=0.0), steps, update_every=2, **settings)
    assert [row["step"] for row in oracle.history] == [2, 4]  # 6 is not < 6
    assert [row["prune_rate"] for row in oracle.history] == pytest.approx([0.37625, 0.12875])
    oracle = run(weights, masks, NaiveSGD(lr=0.0), steps[:3], update_every=None, **settings)
    oracle.update()
    assert [row["step"] for row in oracle.history] == [3]


def test_a_layer_without_gradient_is_left_out():
    # Only a takes part: L = 1, K = 1, importance 1; b keeps its two. In the next interval both take part.
    gradient = {"a": row(1, 3, -2, 2), "b": None}
    settings = {"total_steps": 9, "update_every": 1, **CONSTANT}
    oracle = run(A_AND_B, ACTIVE_01, NaiveSGD(lr=0.0), [gradient], **settings)
    assert [(r["name"], r["pruned"], r["grown"], r["active"], r["importance"]) for r in oracle.history] == [
        ("a", 1, 1, 2, 1.0),
        ("b", 0, 0, 2, 0.0),
    ]
    assert torch.equal(oracle.weights["b"], A_AND_B["b"])
    oracle.step({"b": row(1, 1, 1, 1)})
    assert [(r["name"], r["pruned"]) for r in oracle.history[2:]] == [("a", 0), ("b", 1)]


def test_zero_importance_gives_each_layer_its_own_back():
    # Layer a has 3 active: k = ceil(1.5) = 2; b has 1 active: k = min(1, 0) = 0. All M = 0: ties by index.
    weights, masks = {"a": row(1, 2, 3, 0), "b": row(1, 0)}, {"a": on(0, 1, 2, size=4), "b": on(0, size=2)}
    gradients = {"a": row(0, 0, 0, 0), "b": row(0, 0)}
    with pytest.warns(UserWarning, match="all importances are 0"):
        oracle = run(weights, masks, NaiveSGD(lr=0.1), [gradients], total_steps=9, update_every=1, **CONSTANT)
    assert [row["grown"] for row in oracle.history] == [2, 0]
    assert torch.equal(oracle.masks["a"], on(0, 1, 2, size=4))  # 0, 1 pruned; 0, 1 grown before 3
    assert torch.equal(oracle.weights["a"], row(0, 0, 3, 0))


@pytest.mark.parametrize(
    ("settings", "grown"),
    [
        ({}, [2, 0]),  # q = 1.6, .4
        ({"share": "none"}, [1, 1]),
        # .8/4 : .2/1 = 1 : 1 -> 1, 1
        ({"share": "momentum-per-flop", "flops": {"a": 4, "b": 1}}, [1, 1]),
        # .8/64 : .2/1 = 1 : 16 -> .12, 1.88 -> 0, 2
        ({"share": "momentum-per-flop", "flops": {"a": 64, "b": 1}}, [0, 2]),
        # half of 4 = 2 may be active: free 2-2+1 = 1 -> a is capped at 1, the excess .6 goes to b
        ({"max_density": 0.5}, [1, 1]),
        ({"max_density": {"a": 0.5}}, [1, 1]),
        ({"max_density": {"b": 0.5}}, [2, 0]),
    ],
)
def test_share_rules(settings, grown):
    settings = {"total_steps": 2, "update_every": 1, **CONSTANT, **settings}
    oracle = run(A_AND_B, ACTIVE_01, NaiveSGD(lr=0.5, momentum=0.5), [FIRST], **settings)
    assert [row["grown"] for row in oracle.history] == grown
    assert [row["importance"] for row in oracle.history] == [0.8, 0.2]


# ---------------------------------------------------------------- integer windows


def test_window_by_hand():
    # mu = 1/2, window 2, update at step 3, lr 0. Gradients of position 2: 100, 2, 1; of position 3: 0, 0, 4.
    # M of 2 = 1 + 2/2 = 2 (the 100 is forgotten), of 3 = 4. Position 0 (|1|) is pruned; its gradients are 64,
    # 0, 2, so its windowed M is 2 (its full buffer 64/4 + 2 = 18 would win). 3 grows: 4 / (1 - 1/4) = 16/3.
    gradients = [{"a": row(64, 1, 100, 0)}, {"a": row(0, 1, 2, 0)}, {"a": row(2, 1, 1, 4)}]
    oracle = run({"a": row(1, 2, 0, 0)}, {"a": on(0, 1, size=4)}, NaiveSGD(lr=0.0, momentum=0.5),
                 gradients[:2], total_steps=9, update_every=3, window=2, **CONSTANT)  # fmt: skip
    assert torch.equal(oracle.momentum["a"], row(32, 1.5, 52, 0))  # own, own, 100/2 + 2, 0
    oracle.step(gradients[2])
    assert torch.equal(oracle.masks["a"], on(1, 3, size=4))
    torch.testing.assert_close(oracle.state["a"]["momentum_buffer"], row(0, 1.75, 0, 16 / 3))
    assert torch.equal(oracle.momentum["a"][0, [0, 2]], torch.zeros(2, dtype=torch.float64))  # starts anew

    # With "all" the pruned position competes with its full 18, and position 2 with 100/4 + 2/2 + 1 = 27.
    everything = run({"a": row(1, 2, 0, 0)}, {"a": on(0, 1, size=4)}, NaiveSGD(lr=0.0, momentum=0.5),
                     gradients, total_steps=9, update_every=3, **CONSTANT)  # fmt: skip
    assert torch.equal(everything.masks["a"], on(1, 2, size=4))
    assert torch.equal(everything.momentum["a"], row(18, 1.75, 27, 4))


def test_window_holds_no_weight_decay_and_divides_by_steps_folded():
    # Window 5 but one step: M = g (1 - dampening) = 4 * .5 = 2, divided by 1 - .5. Position 0: its own buffer
    # is 3 + .1 * 1 = 3.1, its windowed M 3 * .5 = 1.5 < 2, so it does not return. Position 1: 0 + .1 * 2.
    sgd = NaiveSGD(lr=0.0, momentum=0.5, dampening=0.5, weight_decay=0.1)
    oracle = run({"a": row(1, 2, 0)}, {"a": on(0, 1, size=3)}, sgd, [{"a": row(3, 0, 4)}],
                 total_steps=9, update_every=1, window=5, **CONSTANT)  # fmt: skip
    torch.testing.assert_close(oracle.state["a"]["momentum_buffer"], row(0, 0.2, 4))


def test_adam_window_by_hand():
    # beta1 1/2, beta2 3/4, window 2 of 3 steps. Position 2 sees 7, 1, 2:
    # m = .5*(.5*1) + .5*2 = 1.25, / (1 - 1/4) = 5/3; v = .75*(.25*1) + .25*4 = 1.1875, / (1 - 9/16) = 19/7.
    # Stored for the optimizer's 3 steps: m = 5/3 * (1 - 1/8), v = 19/7 * (1 - 27/64).
    adam = NaiveAdam(lr=0.0, betas=(0.5, 0.75), eps=0.0)
    steps = [{"a": row(0, 1, 7)}, {"a": row(0, 1, 1)}, {"a": row(0, 1, 2)}]
    oracle = run({"a": row(1, 2, 0)}, {"a": on(0, 1, size=3)}, adam, steps,
                 total_steps=9, update_every=3, window=2, **CONSTANT)  # fmt: skip
    assert torch.equal(oracle.masks["a"], on(1, 2, size=3))
    state = oracle.state["a"]
    torch.testing.assert_close(state["exp_avg"], row(0, 7 / 8, 5 / 3 * 7 / 8))
    torch.testing.assert_close(state["exp_avg_sq"], row(0, 37 / 64, 19 / 7 * 37 / 64))
    assert oracle.momentum["a"][0, 2].item() == pytest.approx(5 / 3 / math.sqrt(19 / 7))


# ---------------------------------------------------------------- against torch


SGD_SETTINGS = [
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1},
]
ADAM_SETTINGS = [
    (torch.optim.Adam, {"weight_decay": 0.1}, {}),
    (torch.optim.AdamW, {"weight_decay": 0.1}, {"decoupled": True}),
    (torch.optim.Adam, {"betas": (0.5, 0.8), "eps": 0.1}, {}),
]
OPTIMIZERS = [(torch.optim.SGD, NaiveSGD, s, {}) for s in SGD_SETTINGS] + [
    (kind, NaiveAdam, s, extra) for kind, s, extra in ADAM_SETTINGS
]


def random_gradients(count, *shape):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize(("kind", "naive", "settings", "extra"), OPTIMIZERS)
def test_a_full_layer_is_torchs_optimizer(kind, naive, settings, extra):
    start, *gradients = random_gradients(8, 3, 4)
    parameter = torch.nn.Parameter(start.clone())
    reference = kind([parameter], lr=0.1, **settings)
    oracle = NaiveSparseMomentum(
        {"a": start},
        {"a": start == start},
        naive(lr=0.1, **settings, **extra),
        total_steps=9,
        update_every=None,
    )
    for gradient in gradients:
        parameter.grad = gradient.clone()
        reference.step()
        oracle.step({"a": gradient})
        torch.testing.assert_close(oracle.weights["a"], parameter.detach(), rtol=1e-12, atol=1e-14)
        for key, value in oracle.state["a"].items():
            torch.testing.assert_close(value, reference.state[parameter][key], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("kind", "naive"), [(torch.optim.SGD, NaiveSGD), (torch.optim.Adam, NaiveAdam)], ids=["sgd", "adam"]
)
def test_window_all_never_loses_the_dense_momentum(kind, naive):
    # Without weight decay or dampening a dense optimizer that is fed the same gradients has the same momentum
    # at every position, however often positions are pruned and grown.
    settings = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    start, *gradients = random_gradients(21, 6, 7)
    mask = start.abs() > 0.8
    parameter = torch.nn.Parameter(start.clone())
    reference = kind([parameter], lr=0.1, **settings)
    oracle = NaiveSparseMomentum({"a": start}, {"a": mask}, naive(lr=0.1, **settings), total_steps=20, update_every=3)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        reference.step()
        oracle.step({"a": gradient})
        state, steps = reference.state[parameter], oracle.t
        if kind is torch.optim.SGD:
            expected = state["momentum_buffer"]
        else:
            v_hat = state["exp_avg_sq"] / (1 - 0.999**steps)
            expected = state["exp_avg"] / (1 - 0.9**steps) / (v_hat.sqrt() + 1e-8)
        torch.testing.assert_close(oracle.momentum["a"], expected, rtol=1e-11, atol=1e-13)
        assert oracle.masks["a"].sum() == mask.sum()
        assert not oracle.weights["a"][~oracle.masks["a"]].any()
    assert len(oracle.history) == 6
    assert not torch.equal(oracle.masks["a"], mask)


@pytest.mark.parametrize("window", ["all", 2, 9])
def test_twin_of_a_real_network(window):
    torch.manual_seed(0)
    twin = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
    names = ["0.weight", "2.weight"]
    weights = {name: twin.get_parameter(name).detach().clone() for name in names}
    counts = initial_counts([w.shape for w in weights.values()], 0.4, "erk")
    masks = {}
    for (name, weight), count in zip(weights.items(), counts, strict=True):
        masks[name] = torch.zeros(weight.numel(), dtype=torch.bool)
        masks[name][torch.randperm(weight.numel())[:count]] = True
        masks[name] = masks[name].reshape(weight.shape)
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
    rest = [p for name, p in twin.named_parameters() if name not in names]
    optimizer = torch.optim.SGD(rest, **settings)
    oracle = NaiveSparseMomentum(weights, masks, NaiveSGD(**settings), total_steps=16, update_every=4, window=window)
    x, y = torch.randn(20, 6).double(), torch.randint(3, (20,))
    losses = []
    for _ in range(16):
        copy_weights(twin, oracle)

        def loss():
            losses.append(torch.nn.functional.cross_entropy(twin(x), y))
            return losses[-1]

        gradients = dense_gradients(twin, names, loss)
        factor = clip_factor(gradients, oracle.masks, [p.grad for p in rest], max_norm=1.0)
        oracle.step({name: factor * gradient for name, gradient in gradients.items()})
        for parameter in rest:
            parameter.grad.mul_(factor)
        optimizer.step()
    assert losses[-1] < losses[0]
    assert len(oracle.history) == 3 * 2
    assert sum(int(mask.sum()) for mask in oracle.masks.values()) == sum(counts)
    last = {row["name"]: row["active"] for row in oracle.history[-2:]}
    assert last == {name: int(mask.sum()) for name, mask in oracle.masks.items()}


def test_clip_factor_is_torchs_on_the_sparse_gradients():
    weight, bias = random_gradients(2, 3, 4)
    mask = weight > 0
    for max_norm in (0.5, 1e3):
        sparse = [torch.nn.Parameter(torch.zeros_like(weight)) for _ in range(2)]
        sparse[0].grad, sparse[1].grad = weight * mask, copy.deepcopy(bias)
        torch.nn.utils.clip_grad_norm_(sparse, max_norm)
        factor = clip_factor({"w": weight, "unused": None}, {"w": mask}, [bias, None], max_norm)
        torch.testing.assert_close(sparse[1].grad, factor * bias, rtol=1e-12, atol=0)
