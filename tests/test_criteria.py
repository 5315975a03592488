"""Each criterion on a vector small enough to check by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import regrow
from helpers import fed, feed, indices
from regrow import criteria, topology
from regrow import redistribution as sharing
from regrow.redistribution import PruneRequest, RedistributionRequest
from regrow.topology.random import draw_distinct
from regrow.updaters.dsr import AdaptiveThreshold


def layer(**parts):
    return SimpleNamespace(**{name: torch.tensor(value) for name, value in parts.items()}, active=len(parts["values"]))


def test_set_takes_the_same_share_of_each_sign():
    scores = criteria.rank_among_sign(layer(values=[0.4, -0.1, 0.3, -5.0, 0.2, 0.1]))
    assert scores.tolist() == [0.875, 0.25, 0.625, 0.75, 0.375, 0.125]
    # half of four positive ones and half of two negative ones: not the three smallest, which would be one negative more
    assert topology.smallest(scores, 3).tolist() == [1, 4, 5]
    assert topology.smallest(criteria.rank_among_sign(layer(values=[-3.0, -1.0, -2.0])), 1).tolist() == [1]


def test_mest_adds_the_gradient():
    score = criteria.magnitude_and_gradient(2.0)(layer(values=[1.0, -0.5, 0.1], gradient=[0.0, -1.0, 0.25]))
    assert score.tolist() == pytest.approx([1.0, 2.5, 0.6])


def test_importances():
    one = layer(values=[1.0, -3.0], gradient=[0.5, -0.5], momentum=[2.0, 0.0])
    assert criteria.mean_magnitude(one) == 2.0
    assert criteria.mean_gradient(one) == 0.5
    assert criteria.mean_momentum(one) == 1.0
    assert criteria.active_weights(one) == 2.0


def test_random_growth_is_uniform():
    generator = torch.Generator().manual_seed(0)
    view = SimpleNamespace(numel=6, generator=generator, indices=torch.tensor([0]))
    drawn = torch.cat([topology.largest(criteria.random(view), 2) for _ in range(3000)])
    assert (torch.bincount(drawn, minlength=6) - 1000).abs().max() < 120  # four standard deviations


def request(scores, rate=0.5, **more):
    scores = [torch.tensor(s) for s in scores]
    active = [s.numel() for s in scores]
    parts = dict(names=list("ab"), step=0, numel=[10, 10], importance=None, target=active) | more
    return PruneRequest(rate=rate, scores=scores, active=active, **parts)


def test_the_smallest_of_the_network_leave_one_in_each_layer():
    asked = request([[0.1, 0.2, 0.3, 0.4], [5.0, 6.0, 0.35, 7.0]], rate=0.75)
    assert sharing.by_rate(asked) == [3, 3]
    assert sharing.globally(asked) == [3, 3]  # 0.4 is the last of its layer
    assert sharing.globally(request([[0.1, 0.2, 0.3, 0.4], [5.0, 6.0, 0.35, 7.0]])) == [3, 1]
    assert topology.counts_of_largest([torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0])], 3) == [2, 1]


def test_the_density_of_a_network_keeps_what_it_has_when_it_has_it():
    target = sharing.to_density(lambda step: 0.4, "global")
    assert target(request([[1.0] * 7, [9.0]])) == [7, 1]
    assert target(request([[1.0] * 7, [9.0] * 4])) == [4, 4]
    assert sharing.to_density(lambda step: 0.4)(request([[1.0] * 7, [9.0]])) == [4, 4]


def test_dsr_doubles_and_halves_its_threshold():
    threshold = AdaptiveThreshold(0.25, tolerance=0.1)
    scores = [[0.1, 0.2, 0.3, 0.4], [0.1, 1.0, 2.0, 3.0]]
    assert threshold(request(scores, rate=0.5)) == [2, 1]  # wanted 4
    assert threshold.value == 0.5
    assert threshold(request(scores, rate=0.5)) == [3, 1]  # all four are below, one stays
    assert threshold.value == 0.5
    assert threshold(request(scores, rate=0.25)) == [3, 1]
    assert threshold.value == 0.25


def test_survivors_share():
    asked = RedistributionRequest(
        [], pruned=[4, 2], free=[20, 20], kept=[6, 3], target=[10, 5], flops_per_weight=[1, 1]
    )
    assert sharing.by_survivors(asked) == [4, 2]
    asked = RedistributionRequest([], pruned=[4, 2], free=[20, 20], kept=[1, 5], target=[5, 7], flops_per_weight=[1, 1])
    assert sharing.by_survivors(asked) == [1, 5]


def test_growth_by_neuron():
    scores = torch.tensor([[4.0, 0.0, 0.0], [1.0, 1.0, -torch.inf]])
    assert topology.largest_by_row(scores, 3).tolist() == [0, 1, 3]  # 2 of 3 by mass 4 : 2
    assert topology.largest_by_row(torch.zeros(2, 2), 3).tolist() == [0, 1, 2]


def test_distinct_draws():
    generator = torch.Generator().manual_seed(0)
    for number, below in [(0, 5), (5, 5), (3, 100), (24, 100), (26, 100)]:
        drawn = draw_distinct(number, below, generator)
        assert len(set(drawn.tolist())) == number
        assert all(0 <= value < below for value in drawn.tolist())
    counts = torch.bincount(torch.cat([draw_distinct(2, 9, generator) for _ in range(4500)]), minlength=9)
    assert (counts - 1000).abs().max() < 120
    with pytest.raises(ValueError, match="cannot draw 6"):
        draw_distinct(6, 5, generator)


# ---------------------------------------------------------------- updates by hand


def one_step(updater, gradient, values=(1.0, -2.0, 3.0, -4.0), lr=0.0, **settings):
    """A row of eight positions, the first four active with these values; one step with this gradient, one update."""
    model = fed({"a": range(4)}, a=[*values, 0.0, 0.0, 0.0, 0.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    made = updater(model, optimizer, total_steps=100, update_every=None, **settings)
    feed(model, optimizer, a=[gradient])
    rows = made.update()
    return indices(model)["a"], rows, model


def test_rigl_grows_the_largest_gradient_pruned_ones_included():
    gradient = [9.0, 0.0, 0.0, 0.0, 0.0, 8.0, -7.0, 0.0]
    active, rows, model = one_step(regrow.RigL, gradient, prune_rate=0.5)
    assert active == [0, 2, 3, 5]  # 0 and 1 leave, 0 comes back
    assert (rows[0]["pruned"], rows[0]["grown"], rows[0]["importance"]) == (2, 2, 0.0)
    assert model.a.tolist() == [[0.0, 0.0, 3.0, -4.0, 0.0, 0.0, 0.0, 0.0]]


def test_rigl_ends_at_its_fraction():
    model = fed({"a": range(4)}, a=[1.0] * 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = regrow.RigL(model, optimizer, total_steps=20, update_every=1, stop_fraction=0.75)
    for _ in range(20):
        feed(model, optimizer, a=[[1.0] * 8])
    assert [row["step"] for row in updater.history] == list(range(1, 15))
    assert updater.update() == []


def test_mest_keeps_a_small_weight_of_large_gradient():
    gradient = [5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    model = fed({"a": range(4)}, a=[1.0, -2.0, 3.0, -4.0, 0.0, 0.0, 0.0, 0.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    updater = regrow.MEST(
        model, optimizer, total_steps=100, update_every=None, prune_rate=0.25, soft_bound=False, seed=0
    )
    feed(model, optimizer, a=[gradient])
    updater.update()
    assert model.a[0, :4].tolist() == [1.0, 0.0, 3.0, -4.0]


def test_itop_counts_what_has_ever_been_active():
    model = fed({"a": range(4)}, a=[1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    updater = regrow.RigLITOP(model, optimizer, total_steps=100, update_every=None, prune_rate=0.25)
    assert updater.exploration_rate == 0.5
    rates = []
    for grown in (5, 6, 5):
        feed(model, optimizer, a=[[float(position == grown) for position in range(8)]])
        updater.update()
        rates.append(updater.exploration_rate)
    assert rates == [0.625, 0.75, 0.75]


def test_deep_rewiring_kills_what_would_change_its_sign():
    model = fed({"a": range(4)}, a=[1.0, -2.0, 0.5, -4.0, 0.0, 0.0, 0.0, 0.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    updater = regrow.DeepRewiring(model, optimizer, total_steps=9, update_every=None, l1=0.25, noise=0.0, seed=0)
    feed(model, optimizer, a=[[0.0, -2.0, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0]])
    # strengths 1, 0, 0, 5 less 0.25: the second and the third die, two others come to life with 0
    assert model.a[0, [0, 3]].tolist() == [0.75, -4.75]
    assert not model.a[0, [1, 2, 4, 5, 6, 7]].any()
    assert len(indices(model)["a"]) == 4
    (row,) = updater.update()
    assert (row["pruned"], row["grown"], row["active"], row["prune_rate"]) == (2, 2, 4, 0.5)
    assert updater.update() == []


def test_deep_rewiring_draws_layers_by_their_dormant_positions():
    torch.manual_seed(0)
    model = regrow.sparsify(nn.Sequential(nn.Linear(40, 30, bias=False), nn.Linear(30, 5, bias=False)), 0.2, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    updater = regrow.DeepRewiring(model, optimizer, total_steps=99, update_every=None, l1=0.02, noise=0.05, seed=0)
    for _ in range(40):
        optimizer.zero_grad()
        model(torch.ones(2, 40)).sum().mul(0.0).backward()
        optimizer.step()
    large, small = updater.update()
    assert large["pruned"] + small["pruned"] == large["grown"] + small["grown"] > 1000
    share = 1200 / 1350
    assert abs(large["grown"] / (large["grown"] + small["grown"]) - share) < 0.03


def test_a_criterion_that_asks_for_what_is_not_collected_is_told_the_remedy():
    def attach(grow):
        return lambda model, optimizer, **more: regrow.ComposedUpdater(
            model, optimizer, schedule=lambda step: 0.5, grow=grow, **more
        )

    for grow, remedy in [
        (criteria.inactive_gradient, 'collect="gradient"'),
        (criteria.inactive_momentum, 'collect="momentum"'),
        (lambda view: view.gradient, "uses_gradient=True"),
    ]:
        with pytest.raises(RuntimeError, match=f"{remedy}, before the step"):
            one_step(attach(grow), [1.0] * 8)
