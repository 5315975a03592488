"""Updaters: counts are exact, updates come when they should, a resumed run is the run that went on."""

import io
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import regrow
from core.helpers import (
    EXAMPLES,
    assert_inactive_are_zero,
    assert_same,
    fed,
    feed,
    frozen,
    indices,
    loss_at,
    masked,
    mlp,
    picture,
    sparse_mlp,
    total_active,
    train,
)
from regrow.schedule import prune_rate_schedule

SGD = torch.optim.SGD


def sgd(model, lr=0.1, **more):
    return SGD(model.parameters(), lr=lr, momentum=0.9, **more)


def momentum(model, optimizer, **more):
    arguments = {"total_steps": 100, "update_every": 2} | more
    return regrow.SparseMomentum(model, optimizer, **arguments)


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
        "share": share,
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
        if setup["share"] == "none":
            assert row["active"] == start[row["name"]]


def test_a_budget_above_which_the_network_starts_is_approached():
    model = masked(Mixed(), 0.3, distribution={"conv": 1.0, "fc1": 0.2, "fc2": 0.2}, seed=0)
    optimizer = sgd(model, lr=0.01)
    momentum(model, optimizer, update_every=1, flops_budget=0.4, schedule="constant", share="momentum")
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


def test_by_hand_equals_by_itself():
    models = [sparse_mlp(), sparse_mlp()]
    for model, every in zip(models, (3, None), strict=True):
        optimizer = sgd(model)
        updater = momentum(model, optimizer, update_every=every)
        for step in range(1, 8):
            train(model, optimizer, [step])
            if every is None and step % 3 == 0:
                updater.update()
    assert_same(models[0].state_dict(), models[1].state_dict())


def test_same_seed_same_run_and_no_draw_from_the_global_generator_while_training():
    models = [sparse_mlp(), sparse_mlp()]
    for model in models:
        optimizer = sgd(model)
        momentum(model, optimizer, seed=1)
        torch.manual_seed(id(model) % 1000)
        before = torch.get_rng_state()
        train(model, optimizer, range(5))
        assert torch.equal(torch.get_rng_state(), before)
    assert_same(models[0].state_dict(), models[1].state_dict())


# ---------------------------------------------------------------- resuming


OPTIMIZERS = {
    "sgd": lambda model: sgd(model, nesterov=True, weight_decay=1e-3),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01),
    "fused adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01, fused=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stop", [1, 3, 4, 5, 7, 8])
@pytest.mark.parametrize(
    "more",
    [{}, {"window": 2}, {"share": "momentum-per-flop"}, {"flops_budget": 0.3}, {"schedule": "linear", "share": "none"}],
    ids=str,
)
def test_a_resumed_run_is_the_run_that_went_on(optimizer, stop, more):
    def make(seed):
        model = sparse_mlp(seed=seed)
        trained = OPTIMIZERS[optimizer](model)
        return model, trained, momentum(model, trained, total_steps=11, update_every=4, **more)

    model, trained, updater = make(0)
    train(model, trained, range(stop))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (model, trained, updater)], file)
    train(model, trained, range(stop, 12))

    file.seek(0)
    states = torch.load(file, weights_only=True)
    other, other_trained, other_updater = make(5)
    for part, state in zip((other, other_trained, other_updater), states, strict=True):
        part.load_state_dict(state)
    train(other, other_trained, range(stop, 12))
    assert_same(model.state_dict(), other.state_dict())
    assert_same(trained.state_dict(), other_trained.state_dict())
    assert_same(updater.state_dict(), other_updater.state_dict())


def test_a_loaded_state_is_a_copy():
    model, other = sparse_mlp(), sparse_mlp()
    optimizer, optimizer2 = sgd(model), sgd(other)
    updater, updater2 = momentum(model, optimizer), momentum(other, optimizer2)
    train(model, optimizer, range(3))
    state = updater.state_dict()
    kept = frozen(state)
    updater2.load_state_dict(state)
    train(other, optimizer2, range(5))
    assert_same(kept, state)


def another(kind):
    if kind == "names":
        model = masked(nn.Sequential(nn.Tanh(), nn.Linear(8, 4)), 0.5)
    elif kind == "shapes":
        model = sparse_mlp(9, 12, 4)
    else:  # as many weights in another shape
        model = sparse_mlp(12, 8, 6)
    return model


@pytest.mark.parametrize("kind", ["names", "shapes", "transposed"])
@pytest.mark.parametrize("window", [None, 1], ids=["all", "between windows"])
def test_a_checkpoint_of_another_model_is_refused_and_changes_nothing(kind, window):
    model = sparse_mlp()
    optimizer = sgd(model)
    updater = momentum(model, optimizer, window=window, update_every=10)
    train(model, optimizer, range(3))
    state = updater.state_dict()
    other = another(kind)
    other_optimizer = sgd(other)
    other_updater = momentum(other, other_optimizer, window=window, update_every=10)
    before = picture(other, other_optimizer, other_updater)
    with pytest.raises(ValueError, match=r"another model.*0\.weight"):
        other_updater.load_state_dict(state)
    assert_same(before, picture(other, other_optimizer, other_updater))


@pytest.mark.parametrize(
    "spoil",
    [lambda state: state.pop("generator"), lambda state: state["missing"]["2.weight"].pop("steps")],
    ids=["generator", "steps"],
)
def test_a_damaged_state_changes_nothing(spoil):
    model = sparse_mlp()
    optimizer = sgd(model)
    updater = momentum(model, optimizer)
    train(model, optimizer, range(3))
    state = frozen(updater.state_dict())
    train(model, optimizer, range(3, 6))
    spoil(state)
    before = picture(model, optimizer, updater)
    with pytest.raises((KeyError, ValueError)):
        updater.load_state_dict(state)
    assert_same(before, picture(model, optimizer, updater))


# ---------------------------------------------------------------- errors


def lacking(model):
    return SGD(model[2].parameters(), lr=0.1, momentum=0.9)


ERRORS = {
    "total_steps": (sgd, {"total_steps": 0}, "total_steps=0"),
    "update_every too large": (sgd, {"update_every": 101}, "update_every=101.*total_steps=100"),
    "update_every 0": (sgd, {"update_every": 0}, "update_every=0"),
    "window": (sgd, {"window": 0}, "window=0"),
    "schedule": (sgd, {"schedule": "step"}, "schedule='step'.*cosine"),
    "prune_rate": (sgd, {"prune_rate": 1.0}, r"prune_rate=1\.0"),
    "share": (sgd, {"share": "equal"}, "share='equal'.*momentum, none"),
    "max_density 0": (sgd, {"max_density": 0.0}, r"max_density=0\.0"),
    "max_density 2": (sgd, {"max_density": 2}, "max_density=2"),
    "max_density nan": (sgd, {"max_density": math.nan}, "max_density=nan"),
    "flops_budget 0": (sgd, {"flops_budget": 0.0}, r"flops_budget=0\.0"),
    "flops_budget 2": (sgd, {"flops_budget": 2}, "flops_budget=2"),
    "flops_budget and share": (sgd, {"flops_budget": 0.5, "share": "none"}, "share='none'"),
    "momentum 0": (lambda m: SGD(m.parameters(), lr=0.1), {}, r"SGD trains 0\.weight with momentum=0.*momentum=0\.9"),
    "beta1 0": (lambda m: torch.optim.Adam(m.parameters(), betas=(0.0, 0.9)), {}, r"0\.weight.*betas=\(0\.0, 0\.9\)"),
    "no momentum": (lambda m: torch.optim.Adagrad(m.parameters()), {}, r"Adagrad.*0\.weight.*torch\.optim\.SGD"),
    "a weight is missing": (lacking, {}, r"does not hold 0\.weight.*after sparsify"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_errors_name_value_place_and_remedy_and_change_nothing(error):
    make, more, message = ERRORS[error]
    model = sparse_mlp()
    optimizer = make(model)
    before, generator = picture(model, optimizer), torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        momentum(model, optimizer, **more)
    assert_same(before, picture(model, optimizer))
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("kind", [momentum, lambda model, optimizer: regrow.Static(model, optimizer)])
def test_what_every_updater_refuses(kind):
    with pytest.raises(ValueError, match=r"no sparse weights.*sparsify"):
        kind(dense := mlp(4, 4), sgd(dense))
    model = sparse_mlp()
    with pytest.raises(ValueError, match=r"0\.weight"):
        kind(model, lacking(model))
    with pytest.raises(TypeError, match="got dict"):
        kind(model, {})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["momentum of missing weights", "momentum", "weights"])
@pytest.mark.parametrize("window", [None, 3])
def test_not_finite_at_an_update_changes_nothing(bad, where, window):
    model = fed({"a": range(4), "b": range(4)}, a=[1.0] * 4 + [0.0] * 4, b=[1.0] * 4 + [0.0] * 4)
    optimizer = sgd(model, weight_decay=0.1)
    updater = momentum(model, optimizer, update_every=None, window=window)
    good, spoiled = [1.0] * 8, [bad] + [1.0] * 6 + [bad]
    feed(model, optimizer, a=[good], b=[good])
    feed(model, optimizer, a=[good], b=[spoiled if where == "momentum of missing weights" else good])
    with torch.no_grad():
        if where == "momentum":
            optimizer.state[model.b]["momentum_buffer"][0, 1] = bad
        elif where == "weights":
            model.b[0, 1] = bad
    before = picture(model, optimizer, updater)
    for _ in range(2):
        with pytest.raises(FloatingPointError, match=rf"b: .*{where}.* step 2.*(?i:learning rate|clip)"):
            updater.update()
        after = picture(model, optimizer, updater)
        assert_same(before, after, exclude=["missing"])
        for name in ("a", "b"):
            (left, right) = (p["updater"]["missing"][name] for p in (before, after))
            assert_same(left, right, exclude=["moments"])
            off = ~regrow.sparse_weights(model)[name].mask
            assert_same(left["moments"]["momentum_buffer"][off], right["moments"]["momentum_buffer"][off])


@pytest.mark.parametrize("window", [None, 1])
def test_an_overflow_in_inactive_positions_alone_is_left_out(window):
    """Gradient scalers do not see it, for it is masked; it must not poison the momentum of missing weights."""
    model = fed({"a": range(4)}, a=[1.0] * 4 + [0.0] * 4)
    optimizer = sgd(model)
    updater = momentum(model, optimizer, update_every=3, window=window)
    for step in range(1, 7):
        feed(model, optimizer, a=[[1.0] * 7 + [math.inf if step == 3 else 1.0]])
    assert [row["step"] for row in updater.history] == [3, 6]
    assert torch.isfinite(model.a).all()


def test_a_second_updater_on_the_same_weights_is_refused_or_takes_over():
    """A notebook cell run twice must not update twice."""
    model = sparse_mlp()
    optimizer = sgd(model)
    updaters = [momentum(model, optimizer)]
    try:
        updaters.append(momentum(model, optimizer))
    except ValueError:
        return
    train(model, optimizer, range(3))
    assert sorted(len(updater.history) for updater in updaters) == [0, 2]


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


# ---------------------------------------------------------------- static


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


# ---------------------------------------------------------------- two ranks


def test_several_processes_need_an_updater(monkeypatch):
    """Ranks on their own would go different ways; what is only looked at may stay as it is."""
    model = sparse_mlp()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match=r"2 processes.*Static"):
        loss_at(model, 0)
    with torch.no_grad():
        loss_at(model, 0)
    loss_at(regrow.densify(model), 0)
