"""What updaters refuse: errors name value, place and remedy, and change nothing."""

import math

import pytest
import torch

import regrow
from helpers import (
    assert_same,
    fed,
    feed,
    indices,
    loss_at,
    momentum,
    picture,
    sgd,
    sparse_mlp,
    train,
)
from regrow import criteria

SGD = torch.optim.SGD


def lacking(model):
    return SGD(model[2].parameters(), lr=0.1, momentum=0.9)


ERRORS = {
    "total_steps": (sgd, {"total_steps": 0}, "total_steps=0"),
    "update_every too large": (sgd, {"update_every": 101}, "update_every=101.*total_steps=100"),
    "update_every 0": (sgd, {"update_every": 0}, "update_every=0"),
    "window": (sgd, {"window": 0}, "window=0"),
    "schedule": (sgd, {"schedule": "step"}, "schedule='step'.*cosine"),
    "prune_rate": (sgd, {"prune_rate": 1.0}, r"prune_rate=1\.0"),
    "redistribution": (sgd, {"redistribution": "equal"}, "redistribution='equal'.*momentum, none"),
    "max_density 0": (sgd, {"max_density": 0.0}, r"max_density=0\.0"),
    "max_density 2": (sgd, {"max_density": 2}, "max_density=2"),
    "max_density nan": (sgd, {"max_density": math.nan}, "max_density=nan"),
    "flops_budget 0": (sgd, {"flops_budget": 0.0}, r"flops_budget=0\.0"),
    "flops_budget 2": (sgd, {"flops_budget": 2}, "flops_budget=2"),
    "flops_budget and redistribution": (sgd, {"flops_budget": 0.5, "redistribution": "none"}, "got 'none'"),
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


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["momentum of inactive weights", "momentum", "weights"])
@pytest.mark.parametrize("window", [None, 3])
def test_not_finite_at_an_update_changes_nothing(bad, where, window):
    model = fed({"a": range(4), "b": range(4)}, a=[1.0] * 4 + [0.0] * 4, b=[1.0] * 4 + [0.0] * 4)
    optimizer = sgd(model, weight_decay=0.1)
    updater = momentum(model, optimizer, update_every=None, window=window)
    good, spoiled = [1.0] * 8, [bad] + [1.0] * 6 + [bad]
    feed(model, optimizer, a=[good], b=[good])
    feed(model, optimizer, a=[good], b=[spoiled if where == "momentum of inactive weights" else good])
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
    """Gradient scalers do not see it, for it is masked; it must not poison the momentum of inactive weights."""
    model = fed({"a": range(4)}, a=[1.0] * 4 + [0.0] * 4)
    optimizer = sgd(model)
    updater = momentum(model, optimizer, update_every=3, window=window)
    for step in range(1, 7):
        feed(model, optimizer, a=[[1.0] * 7 + [math.inf if step == 3 else 1.0]])
    assert [row["step"] for row in updater.history] == [3, 6]
    assert torch.isfinite(model.a).all()


def test_scores_to_grow_by_that_are_no_numbers_change_nothing():
    model = sparse_mlp()
    optimizer = sgd(model)
    regrow.ComposedUpdater(
        model,
        optimizer,
        total_steps=9,
        update_every=2,
        schedule=lambda step: 0.5,
        prune=criteria.magnitude,
        grow=lambda layer: torch.full((layer.numel,), math.nan),
    )
    before = indices(model)
    with pytest.raises(FloatingPointError, match=r"0\.weight: scores to grow by.*step 2"):
        train(model, optimizer, range(2))
    assert indices(model) == before


def test_a_second_updater_on_the_same_weights_is_refused():
    """A notebook cell run twice must not update twice."""
    model = sparse_mlp()
    optimizer = sgd(model)
    updater = momentum(model, optimizer)
    with pytest.raises(ValueError, match=r"already.*remove\(\) first"):
        momentum(model, optimizer)
    train(model, optimizer, range(3))
    assert len(updater.history) == 2


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
