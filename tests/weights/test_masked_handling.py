"""Masked storage travels: copies, files and wrappers, frozen weights, evaluation, and the end of it."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from torch import nn

import regrow
from helpers import (
    assert_inactive_are_zero,
    assert_same,
    frozen,
    hooks,
    indices,
    loss_at,
    masked,
    picture,
    sparse_mlp,
    train,
    with_updater,
)

SGD = torch.optim.SGD


def by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def by_torch_save(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_state_dict(model):
    fresh = sparse_mlp(seed=7)
    assert indices(fresh) != indices(model)
    fresh.load_state_dict(frozen(model.state_dict()))
    return fresh


def by_assignment(model):
    fresh = sparse_mlp(seed=7)
    fresh.load_state_dict(frozen(model.state_dict()), assign=True)
    return fresh


def copy_of_assigned(model):
    return copy.deepcopy(by_assignment(model))


def pickle_of_assigned(model):
    return by_pickle(by_assignment(model))


COPIES = [
    copy.deepcopy,
    by_pickle,
    by_torch_save,
    by_state_dict,
    by_assignment,
    copy_of_assigned,
    pickle_of_assigned,
    lambda model: copy.deepcopy(copy.deepcopy(model)),
]


@pytest.mark.parametrize("way", COPIES, ids=lambda way: way.__name__)
@pytest.mark.parametrize("trained_before", [False, True])
def test_sparsity_travels(way, trained_before):
    original = sparse_mlp()
    if trained_before:
        train(original, with_updater(original)[0], range(4))
    reference = frozen(original.state_dict())
    other = way(original)
    assert indices(other) == indices(original)
    for model in (original, other):
        trained, updater = with_updater(model)
        for step in range(10, 15):
            train(model, trained, [step])
            assert_inactive_are_zero(model, trained)
        assert len(updater.history) == 4
    assert_same(original.state_dict(), other.state_dict())
    assert any(not torch.equal(a, b) for a, b in zip(reference.values(), other.state_dict().values(), strict=True))


def test_a_copy_is_independent_of_its_original():
    original = sparse_mlp()
    trained, updater = with_updater(original)
    other = copy.deepcopy(original)
    before = picture(other)
    train(original, trained, range(5))
    assert_same(before, picture(other))
    steps = updater.state_dict()["missing"]["0.weight"]["steps"]
    loss_at(other, 0).backward()
    trained.step()
    assert updater.state_dict()["missing"]["0.weight"]["steps"] == steps, "the copy's gradient went to the original"


def test_a_model_with_assigned_parameters_can_be_made_dense():
    model = by_assignment(sparse_mlp())
    plain = regrow.densify(model)
    assert not regrow.sparse_weights(plain)
    loss_at(plain, 0).backward()
    assert all(p.grad.count_nonzero() > p.numel() / 2 for p in plain.parameters())


def test_the_first_gradient_after_assignment_is_masked():
    model = by_assignment(sparse_mlp())
    loss_at(model, 0).backward()
    for weight in regrow.sparse_weights(model).values():
        assert not weight.parameter.grad[~weight.mask].any()


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda model: torch.compile(model, backend="eager"),
        lambda m: nn.DataParallel(nn.DataParallel(m)),
    ],
    ids=["DataParallel", "compile", "nested"],
)
def test_prefixes_of_wrappers_do_not_change_names(wrap):
    model = sparse_mlp()
    names = list(regrow.sparse_weights(model))
    wrapped = wrap(model)
    assert list(regrow.sparse_weights(wrapped)) == names
    trained, updater = with_updater(wrapped)
    train(wrapped, trained, range(3))
    assert {row["name"] for row in updater.history} == set(names)
    assert_inactive_are_zero(model, trained)


def test_sparsify_through_a_wrapper_and_use_without():
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4))
    masked(nn.DataParallel(model), 0.3)
    assert list(regrow.sparse_weights(model)) == ["0.weight", "2.weight"]


def test_frozen_later_is_left_alone():
    model = sparse_mlp()
    trained, updater = with_updater(model)
    model[0].weight.requires_grad_(False)
    before = frozen(model[0].state_dict())
    train(model, trained, range(5))
    assert_same({"weight": before["weight"]}, {"weight": model[0].state_dict()["weight"]})
    assert {row["pruned"] for row in updater.history if row["name"] == "0.weight"} == {0}


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_a_frozen_weight_is_copied_made_dense_and_given_an_updater(storage):
    model = regrow.sparsify(nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4)), 0.3, storage=storage)
    model[0].weight.requires_grad_(False)
    for other in (copy.deepcopy(model), by_pickle(model), regrow.densify(model)):
        assert not other[0].weight.requires_grad
        assert_same(regrow.densify(other).state_dict(), regrow.densify(model).state_dict())
    trained, updater = with_updater(model)
    model[0].weight.requires_grad_(True)  # thawed: it is masked, and takes part
    train(model, trained, range(4))
    assert {row["name"] for row in updater.history if row["pruned"]} == {"0.weight", "2.weight"}
    if storage == "masked":
        assert_inactive_are_zero(model)


def test_evaluation_and_inference_mode():
    model = sparse_mlp()
    with torch.inference_mode():
        loss_at(model.eval(), 0)
    trained, _ = with_updater(model.train())
    train(model, trained, range(3))
    with torch.inference_mode():
        assert sum(w.active for w in regrow.sparse_weights(model).values()) == regrow.summary(model).active
    assert_inactive_are_zero(model, trained)


def test_a_model_that_is_thrown_away_gives_its_memory_back():
    model = sparse_mlp()
    trained, updater = with_updater(model)
    train(model, trained, range(3))
    left = [weakref.ref(thing) for thing in (model, model[0].weight, updater)]
    del model, trained, updater
    gc.collect()
    assert [ref() is None for ref in left] == [True] * 3


def test_densify_leaves_no_trace():
    model = sparse_mlp()
    before = picture(model)
    plain = regrow.densify(model)
    assert_same(before, picture(model))
    assert hooks(plain) == hooks(nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4)))
    for name, weight in regrow.sparse_weights(model).items():
        assert_same(plain.get_parameter(name).detach(), weight.parameter.detach())
    assert_same(regrow.densify(plain).state_dict(), plain.state_dict())


def test_remove_ends_everything():
    model = sparse_mlp()
    before = hooks(model)
    trained = SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = regrow.SparseMomentum(model, trained, total_steps=9, update_every=1, redistribution="momentum-per-flop")
    updater.remove()
    assert hooks(model) == before
    topology = indices(model)
    train(model, trained, range(3))
    assert (indices(model), updater.step, updater.history) == (topology, 0, [])
    assert_inactive_are_zero(model, trained)
