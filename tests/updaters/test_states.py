"""The state of an updater: a resumed run is the run that went on, what does not fit changes nothing."""

import io

import pytest
import torch
from torch import nn

import regrow
from helpers import (
    assert_same,
    frozen,
    masked,
    momentum,
    picture,
    sgd,
    sparse_mlp,
    train,
)

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


@pytest.mark.parametrize("every", [5, 9])
def test_a_resumed_run_may_update_at_another_interval(every):
    """Its window opens in time for the first update, whichever comes first."""

    def make(update_every):
        model = sparse_mlp()
        optimizer = sgd(model)
        return model, optimizer, momentum(model, optimizer, update_every=update_every, window=2)

    model, optimizer, updater = make(7)
    train(model, optimizer, range(2))
    states = frozen([part.state_dict() for part in (model, optimizer, updater)])
    resumed, resumed_optimizer, resumed_updater = make(every)
    for part, state in zip((resumed, resumed_optimizer, resumed_updater), states, strict=True):
        part.load_state_dict(state)
    train(resumed, resumed_optimizer, range(2, every - 2))
    at_once, at_once_optimizer, at_once_updater = make(every)
    train(at_once, at_once_optimizer, range(every - 2))
    assert_same(at_once.state_dict(), resumed.state_dict())
    train(resumed, resumed_optimizer, range(every - 2, every))
    train(at_once, at_once_optimizer, range(every - 2, every))
    assert {row["step"] for row in resumed_updater.history} == {every}
    assert any(row["grown"] for row in resumed_updater.history)
    if every < 7:  # else the window of 7 has been open, and stays so
        assert_same(at_once.state_dict(), resumed.state_dict())
        assert at_once_updater.history == resumed_updater.history


@pytest.mark.parametrize("method", [regrow.RigL, regrow.SET, regrow.DNS, regrow.DeepRewiring, regrow.Static])
def test_the_state_of_another_method_is_refused_and_changes_nothing(method):
    model = sparse_mlp(density=1.0 if method is regrow.DNS else 0.3)
    optimizer = sgd(model)
    settings = {"density": 0.3} if method is regrow.DNS else {}
    settings |= {} if method is regrow.Static else {"total_steps": 100, "update_every": 2}
    updater = method(model, optimizer, **settings)
    other = sparse_mlp()
    other_optimizer = sgd(other)
    other_updater = momentum(other, other_optimizer)
    train(model, optimizer, range(3))
    train(other, other_optimizer, range(3))
    for one, state in ((updater, other_updater.state_dict()), (other_updater, updater.state_dict())):
        before = frozen(one.state_dict())
        with pytest.raises(ValueError, match=r"this is (the state of|not the state)"):
            one.load_state_dict(state)
        assert_same(before, one.state_dict())


def test_the_state_for_another_kind_of_optimizer_is_refused_and_changes_nothing():
    states = []
    for make in (sgd, OPTIMIZERS["adamw"]):
        model = sparse_mlp()
        optimizer = make(model)
        updater = momentum(model, optimizer, update_every=50)
        train(model, optimizer, range(3))
        states.append(updater.state_dict())
    before = frozen(updater.state_dict())
    with pytest.raises(ValueError, match=r"\['momentum_buffer'\] of 0.weight, and here \['exp_avg', 'exp_avg_sq'\]"):
        updater.load_state_dict(states[0])
    assert_same(before, updater.state_dict())


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
