"""Optimizer state, values and updaters stay true to the active sets, whoever loads, copies or overwrites something."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn

import regrow
from helpers import assert_same, indices
from updaters.test_methods import METHODS, OPTIMIZERS, make, moving, sparse, step_of, stored

F64 = torch.float64


def trained(name, storage, optimizer="adam", steps=7):
    model, trainer, updater = make(name, storage, optimizer)
    for step in range(steps):
        step_of(model, trainer, step)
    return model, trainer, updater


def go_back(model, optimizer):
    """Trains on to step 9, and loads the weights of step 3 without the optimizer; the second moments of step 9."""
    best = copy.deepcopy(model.state_dict())
    for step in range(3, 9):
        step_of(model, optimizer, step)
    before = second_moments(model, optimizer)
    model.load_state_dict(best)
    return before


def second_moments(model, optimizer):
    """By layer and position."""
    weights = regrow.sparse_weights(model)
    return {
        (name, position): value
        for name, weight in weights.items()
        for position, value in zip(
            weight.indices.tolist(), weight.take(optimizer.state[weight.parameter]["exp_avg_sq"]).tolist(), strict=True
        )
    }


# -- weights that are loaded without the optimizer


@pytest.mark.parametrize("name", ["rigl", "sparse-momentum", "set"])
def test_state_of_other_compressed_weights_is_refused(name):
    model, optimizer, updater = trained(name, "compressed", steps=3)
    go_back(model, optimizer)
    with pytest.raises(RuntimeError, match=r"0\.weight has another active set than at the last step.*realign.*clear"):
        step_of(model, optimizer, 9)
    updater.realign()
    step_of(model, optimizer, 9)
    assert updater.step == 10


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_realigned_state_is_that_of_the_weights_that_stay(storage):
    model, optimizer, updater = trained("rigl", storage, steps=3)
    before = go_back(model, optimizer)
    updater.realign()
    after = second_moments(model, optimizer)
    assert any(key in before for key in after)
    assert any(key not in before for key in after)
    assert after == {key: before.get(key, 0.0) for key in after}
    for weight in regrow.sparse_weights(model).values():
        for value in optimizer.state[weight.parameter].values():
            if value.dim():
                assert int((value != 0).sum()) <= weight.active


def test_masked_state_follows_by_itself():
    model, optimizer, _ = trained("rigl", "masked", steps=3)
    go_back(model, optimizer)
    step_of(model, optimizer, 9)
    for weight in regrow.sparse_weights(model).values():
        assert not optimizer.state[weight.parameter]["exp_avg_sq"][~weight.mask].any()


@pytest.mark.parametrize("name", ["rigl", "sparse-momentum", "deep-rewiring"])
@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("order", ["model first", "optimizer first"])
def test_a_whole_checkpoint_goes_back_in_place(name, storage, order):
    """Model, optimizer and updater, in any order, as if nothing had been trained since; states that are copied."""
    model, optimizer, updater = trained(name, storage, steps=5)
    parts = [(part, copy.deepcopy(part.state_dict())) for part in (model, optimizer, updater)]
    ends = []
    for _ in range(2):
        for part, state in parts if order == "model first" else [parts[1], parts[0], parts[2]]:
            part.load_state_dict(copy.deepcopy(state))
        for step in range(5, 9):
            step_of(model, optimizer, step)
        ends.append({"model": copy.deepcopy(model.state_dict()), "history": [dict(row) for row in updater.history]})
    assert_same(*ends)


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_signs_follow_where_a_model_and_its_optimizer_are_loaded_alone(storage):
    """Deep rewiring keeps a sign of each active weight, in the order of positions."""
    model, optimizer, _ = trained("deep-rewiring", storage, steps=5)
    parts = [(part, copy.deepcopy(part.state_dict())) for part in (model, optimizer)]
    for step in range(5, 9):
        step_of(model, optimizer, step)
    for part, state in parts:
        part.load_state_dict(state)
    before = {name: weight.values.signbit() for name, weight in regrow.sparse_weights(model).items()}
    updater_of(optimizer)._before_step()
    assert_same(updater_of(optimizer)._signs, before)


def updater_of(optimizer):
    return next(hook.__self__ for hook in optimizer._optimizer_step_post_hooks.values())


def test_state_may_be_cleared():
    model, optimizer, _ = trained("rigl", "compressed", steps=3)
    best = copy.deepcopy(model.state_dict())
    for step in range(3, 7):
        step_of(model, optimizer, step)
    model.load_state_dict(best)
    optimizer.state.clear()
    step_of(model, optimizer, 7)


def test_state_of_another_length_is_refused_where_it_was_loaded():
    model, optimizer, _ = trained("sparse-momentum", "compressed", steps=3)
    early = copy.deepcopy(optimizer.state_dict())
    for step in range(3, 9):
        step_of(model, optimizer, step)
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    optimizer.load_state_dict(early)
    with pytest.raises(RuntimeError, match="another active set"):
        step_of(model, optimizer, 9)


# -- inactive weights that are written to


def overwrite(model):
    for parameter in model.parameters():
        nn.init.ones_(parameter)


def overwrite_data(model):
    for parameter in model.parameters():
        parameter.data.fill_(0.5)


@pytest.mark.parametrize("write", [overwrite, overwrite_data])
@pytest.mark.parametrize("name", ["static", "rigl", "top-kast"])
def test_the_next_step_notices_inactive_weights_that_are_not_0(write, name):
    model, optimizer, _ = trained(name, "masked", steps=8)  # .data is looked for at each eighth step
    write(model)
    with pytest.warns(UserWarning, match=r"\d+ inactive weights of 0\.weight were not 0 before step 9.*set to 0"):
        step_of(model, optimizer, 8)
    assert regrow.check(model) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(9, 12):
            step_of(model, optimizer, step)


# -- a resume without the updater


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("with_updater", [True, False])
def test_a_resume_without_the_updater_is_noticed(storage, optimizer, with_updater):
    model, trainer, updater = trained("rigl", storage, optimizer)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": trainer.state_dict(), "updater": updater.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)
    model, trainer, updater = make("rigl", storage, optimizer)
    model.load_state_dict(saved["model"])
    trainer.load_state_dict(saved["optimizer"])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if with_updater:
            updater.load_state_dict(saved["updater"])
        for step in range(7, 12):
            step_of(model, trainer, step)
    texts = [str(one.message) for one in said if "load it with updater.load_state_dict" in str(one.message)]
    assert len(texts) == (0 if with_updater else 1)
    assert with_updater or "last updated at step 6, but the updater begins at step 0" in texts[0]


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_a_new_training_of_an_old_network_is_none(storage, tmp_path):
    """A new optimizer has no state; so it is with files."""
    model, _, _ = trained("rigl", storage)
    regrow.save(tmp_path / "model.pt", model)
    again = regrow.load(tmp_path / "model.pt", sparse("rigl", storage))
    assert [w.last_update for w in regrow.sparse_weights(again).values()] == [6, 6]
    other = sparse("rigl", storage)
    other.load_state_dict(model.state_dict())
    for network in (again, other):
        trainer = OPTIMIZERS["adam"](network)
        METHODS["rigl"].attach(network, trainer)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            step_of(network, trainer, 7)


# -- copies


@stored
def test_a_copied_training_goes_on_as_the_first_one(name, storage):
    """Model, optimizer and updater, copied together; neither knows of the other."""
    model, optimizer, updater = trained(name, storage, "momentum", steps=5)
    twin = copy.deepcopy((model, optimizer, updater))
    ends = []
    for network, trainer, its in ((model, optimizer, updater), twin):
        for step in range(5, 11):
            step_of(network, trainer, step)
        ends.append({"model": network.state_dict(), "history": its.history, "step": its.step})
        its_own = {id(weight.parameter) for weight in regrow.sparse_weights(network).values()}
        assert its_own <= {id(p) for group in its.optimizer.param_groups for p in group["params"]}
    assert_same(*ends)
    assert ends[1]["step"] == 11


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_a_pickled_training_goes_on_as_the_first_one(storage):
    """Of methods whose criteria can be pickled."""
    model, optimizer, updater = trained("deep-rewiring", storage, "momentum", steps=5)
    twin = pickle.loads(pickle.dumps((model, optimizer, updater)))
    for network, trainer in ((model, optimizer), twin[:2]):
        for step in range(5, 11):
            step_of(network, trainer, step)
    assert_same(model.state_dict(), twin[0].state_dict())
    assert twin[2].step == updater.step == 11


@moving
def test_a_copied_model_alone_is_trained_by_nobody(name):
    model, optimizer, _ = trained(name, "masked", "momentum", steps=5)
    network = copy.deepcopy(model)
    before = indices(network)
    trainer = OPTIMIZERS["momentum"](network)
    for step in range(5, 9):
        step_of(network, trainer, step)
        step_of(model, optimizer, step)
    assert indices(network) == before
