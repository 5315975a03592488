"""Updaters: counts are exact, updates come when they should, whatever the optimizer and its groups are."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import regrow
from helpers import (
    EXAMPLES,
    assert_inactive_are_zero,
    indices,
    loss_at,
    masked,
    momentum,
    sgd,
    sparse_mlp,
    total_active,
    train,
)
from regrow.schedules import prune_rate_schedule

SGD = torch.optim.SGD


class Mixed(nn.Module):
    """A convolution whose weights cost 32 FLOPs and two linear layers whose weights cost 2."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc1, self.fc2 = nn.Conv2d(1, 4, 3), nn.Linear(64, 9), nn.Linear(9, 3)

    def forward(self, x):
        return self.fc2(torch.tanh(self.fc1(torch.tanh(self.conv(x)).flatten(1))))


FLOPS = {"conv.weight": 32.0, "fc1.weight": 2.0, "fc2.weight": 2.0}


def spent(model):
    weights = regrow.sparse_weights(model)
    dense = sum(FLOPS[name] * weight.numel for name, weight in weights.items())
    return sum(FLOPS[name] * weight.active for name, weight in weights.items()) / dense


@st.composite
def setups(draw):
    share = draw(st.sampled_from(["momentum", "none", "momentum-per-flop"]))
    return {
        "prune_rate": draw(st.floats(0, 0.99)),
        "schedule": draw(st.sampled_from(["cosine", "linear", "constant"])),
        "redistribution": share,
        "max_density": draw(st.sampled_from([None, 1.0, 0.6, 0.05])),
        "flops_budget": draw(st.sampled_from([None, 0.7, 0.2, 0.001])) if share == "momentum" else None,
        "window": draw(st.sampled_from([None, 1, 2, 9])),
        "update_every": draw(st.integers(1, 4)),
    }


@settings(EXAMPLES, max_examples=25)
@given(setups(), st.floats(0.02, 0.95) | st.just(1.0), st.sampled_from(["uniform", "erk"]), st.integers(0, 1000))
def test_the_total_of_active_weights_never_changes(setup, density, distribution, seed):
    torch.manual_seed(seed)
    model = masked(Mixed(), density, distribution=distribution, seed=seed)
    start = {name: weight.active for name, weight in regrow.sparse_weights(model).items()}
    at_first = spent(model)
    optimizer = sgd(model)
    updater = momentum(model, optimizer, total_steps=9, **setup)
    for step in range(10):
        optimizer.zero_grad()
        model(torch.randn(2, 1, 6, 6)).square().sum().backward()
        optimizer.step()
        assert total_active(model) == sum(start.values())
        if updater.history and updater.history[-1]["step"] == step + 1:
            check_rows(model, updater.history[-3:], setup, start)
    assert_inactive_are_zero(model, optimizer) if density < 1 else None
    assert [row["step"] for row in updater.history[::3]] == list(range(setup["update_every"], 9, setup["update_every"]))
    if setup["flops_budget"]:
        # never above the budget, or no higher than it was where the budget cannot be met at once
        assert spent(model) <= max(setup["flops_budget"], at_first) + 1e-9


def check_rows(model, rows, setup, start):
    weights = regrow.sparse_weights(model)
    rate = prune_rate_schedule(setup["schedule"], setup["prune_rate"], 9)
    assert [row["name"] for row in rows] == list(weights)
    assert sum(row["pruned"] for row in rows) == sum(row["grown"] for row in rows)
    assert math.fsum(row["importance"] for row in rows) == pytest.approx(1.0)
    for row in rows:
        weight = weights[row["name"]]
        assert row["active"] == weight.active == len(set(weight.indices.tolist()))
        before = row["active"] - row["grown"] + row["pruned"]
        assert row["prune_rate"] == rate(row["step"])
        assert 0 <= row["pruned"] <= min(math.ceil(row["prune_rate"] * before), before - 1)
        limit = math.floor((setup["max_density"] or 1.0) * weight.numel)
        assert row["active"] <= max(limit, before)
        if setup["redistribution"] == "none":
            assert row["active"] == start[row["name"]]


def test_a_budget_above_which_the_network_starts_is_approached():
    torch.manual_seed(0)
    model = masked(Mixed(), 0.3, distribution={"conv": 1.0, "fc1": 0.2, "fc2": 0.2}, seed=0, rescale=False)
    optimizer = sgd(model, lr=0.01)
    momentum(model, optimizer, update_every=1, flops_budget=0.4, schedule="constant", redistribution="momentum")
    path = [spent(model)]
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(2, 1, 6, 6)).square().sum().backward()
        optimizer.step()
        path.append(spent(model))
    assert path[0] > 0.4
    within = next(step for step, density in enumerate(path) if density <= 0.4)
    assert path[: within + 1] == sorted(path[: within + 1], reverse=True)
    assert all(density <= 0.4 for density in path[within:])


def test_history_is_flat_and_plain():
    model = sparse_mlp()
    optimizer = sgd(model)
    updater = momentum(model, optimizer, total_steps=6, update_every=2)
    train(model, optimizer, range(8))
    assert [(row["step"], row["name"]) for row in updater.history] == [
        (step, name) for step in (2, 4) for name in ("0.weight", "2.weight")
    ]
    kinds = {"step": int, "prune_rate": float, "name": str, "pruned": int, "grown": int, "active": int}
    for row in updater.history:
        assert list(row) == [*kinds, "importance"]
        assert all(type(row[key]) is kind for key, kind in kinds.items())


@pytest.mark.parametrize(
    ("total", "every", "steps"), [(6, 2, [2, 4]), (6, 6, []), (7, 6, [6]), (5, 1, [1, 2, 3, 4]), (1, 1, [])]
)
def test_updates_come_at_multiples_before_the_end_and_never_after(total, every, steps):
    model = sparse_mlp()
    optimizer = sgd(model)
    updater = momentum(model, optimizer, total_steps=total, update_every=every)
    train(model, optimizer, range(total))
    topology = indices(model)
    train(model, optimizer, range(total, total + 5))
    assert updater.update() == []
    assert sorted({row["step"] for row in updater.history}) == steps
    assert indices(model) == topology
    assert updater.step == total + 5


def test_by_hand():
    model = sparse_mlp()
    optimizer = sgd(model)
    updater = momentum(model, optimizer, total_steps=5, update_every=None)
    with pytest.raises(RuntimeError, match="before the first optimizer step"):
        updater.update()
    train(model, optimizer, range(3))
    assert updater.history == []
    before = indices(model)
    rows = updater.update()
    assert rows == updater.history
    assert [row["step"] for row in rows] == [3, 3]
    assert indices(model) != before
    train(model, optimizer, range(3, 5))
    assert updater.update() == []


def test_a_rate_of_zero_moves_nothing():
    model = sparse_mlp()
    optimizer = sgd(model)
    before = indices(model)
    for schedule in ("linear", "constant"):
        updater = momentum(model, optimizer, prune_rate=0.0, schedule=schedule)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(model, optimizer, range(3))
        updater.remove()
    assert indices(model) == before


def test_static_keeps_the_topology_and_needs_no_momentum():
    model = sparse_mlp()
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    updater = regrow.Static(model, optimizer)
    before = indices(model)
    train(model, optimizer, range(5))
    assert indices(model) == before
    assert (updater.step, updater.history, updater.update()) == (5, [], [])
    other = regrow.Static(model, optimizer)
    other.load_state_dict(updater.state_dict())
    assert other.step == 5
    updater.remove()
    train(model, optimizer, [5])
    assert (updater.step, other.step) == (5, 6)


def test_wrapped_optimizers_and_learning_rate_schedulers():
    class Wrapper:
        def __init__(self, optimizer):
            self.optimizer = optimizer

    model = sparse_mlp()
    optimizer = sgd(model)
    updater = momentum(model, Wrapper(optimizer))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for step in range(4):
        train(model, optimizer, [step])
        scheduler.step()
    assert updater.step == 4
    assert len(updater.history) == 4


def test_parameter_groups_with_different_settings():
    model = sparse_mlp(dtype=torch.float64)
    groups = [{"params": [model[0].weight], "momentum": 0.5}, {"params": [model[0].bias, *model[2].parameters()]}]
    optimizer = SGD(groups, lr=0.0, momentum=0.9)
    updater = momentum(model, optimizer, update_every=None)
    for _ in range(2):
        optimizer.zero_grad()
        loss_at(model, 0, dtype=torch.float64).backward()
        optimizer.step()
    for name, mu in (("0.weight", 0.5), ("2.weight", 0.9)):
        moment = updater.state_dict()["missing"][name]["moments"]["momentum_buffer"]
        weight = regrow.sparse_weights(model)[name]
        gradient = weight.parameter.grad
        state = optimizer.state[weight.parameter]["momentum_buffer"]
        torch.testing.assert_close(state[weight.mask], ((1 + mu) * gradient)[weight.mask])
        torch.testing.assert_close(moment[weight.mask], state[weight.mask])
