"""Gradients that no backward pass has put into .grad: by hands, by torch.autograd.grad, by other optimizers' tricks."""

import pytest
import torch

import regrow
from helpers import assert_same, indices, loss_at, picture
from updaters.test_methods import METHODS, OPTIMIZERS, make, sparse

F64 = torch.float64


def by_backward(model, step, factor=1.0):
    (factor * loss_at(model, step, dtype=F64)).backward()


def by_assignment(model, step, factor=1.0):
    """As multi-task optimizers do."""
    own = list(model.parameters())
    for parameter, gradient in zip(own, torch.autograd.grad(loss_at(model, step, dtype=F64), own), strict=True):
        parameter.grad = factor * gradient


def by_copying(model, step, factor=1.0):
    """Into the tensors that are there."""
    own = list(model.parameters())
    for parameter, gradient in zip(own, torch.autograd.grad(loss_at(model, step, dtype=F64), own), strict=True):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad.copy_(gradient).mul_(factor)


def instead(model, step, factor=1.0):
    """In the place of gradients that a backward pass has brought."""
    by_backward(model, step + 1)
    by_assignment(model, step, factor)


def train(model, optimizer, way, steps=20, zero=True):
    for step in range(steps):
        if zero:
            optimizer.zero_grad(set_to_none=way is not by_copying)
        way(model, step)
        optimizer.step()


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.moves and not row.reads_activity])
@pytest.mark.parametrize("way", [by_assignment, by_copying, instead])
def test_masked_weights_are_trained_as_by_backward(name, way):
    """Each method, topology and weights to the bit; inactive gradients that hands bring count for growth alone."""
    ends = []
    for of in (by_backward, way):
        model, optimizer, updater = make(name)
        train(model, optimizer, of, zero=of is not by_copying)
        ends.append({"model": model.state_dict(), "history": updater.history})
        moved = sum(row["pruned"] + row["grown"] for row in updater.history)
        assert moved > 0
    assert_same(*ends)


@pytest.mark.parametrize("way", [by_assignment, by_copying])
def test_compressed_weights_are_trained_where_growth_needs_no_gradient(way):
    ends = []
    for of in (by_backward, way):
        model, optimizer, updater = make("set", "compressed")
        train(model, optimizer, of)
        ends.append({"model": model.state_dict(), "history": updater.history})
    assert sum(row["grown"] for row in updater.history) > 0
    assert_same(*ends)


@pytest.mark.parametrize("name", ["rigl", "sparse-momentum", "granet-sparse", "gse"])
def test_compressed_weights_refuse_to_grow_by_gradients_that_nobody_knows(name):
    model, optimizer, _ = make(name, "compressed")
    before = indices(model)
    with pytest.raises(RuntimeError, match=r"step 2 could change nothing: gradients were set by hand.*'masked'.*SET"):
        train(model, optimizer, by_assignment)
    assert indices(model) == before


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_multiples_of_what_came_count_as_such(storage):
    """`p.grad = c * p.grad` is no gradient by hand."""

    def scaled(model, step):
        by_backward(model, step)
        for parameter in model.parameters():
            parameter.grad = 0.5 * parameter.grad

    ends = []
    for way in (lambda model, step: by_backward(model, step, 0.5), scaled):
        model, optimizer, updater = make("sparse-momentum", storage)
        train(model, optimizer, way)
        ends.append((indices(model), [row["grown"] for row in updater.history]))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("name", ["rigl", "set", "sparse-momentum", "mest", "granet-sparse", "dsr"])
@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_an_update_in_which_nobody_takes_part_is_an_error(name, storage):
    """Here the loss does not come from the model that the updater was made with."""
    model, optimizer, updater = make(name, storage, update_every=4)
    other = sparse(name, storage)
    before = picture(model, updater=updater)

    def step():
        loss_at(other, 0, dtype=F64).backward()
        optimizer.step()

    for _ in range(3):
        step()
    with pytest.raises(RuntimeError, match=r"the update of step 4 could change nothing: no sparse weight had a gradi"):
        step()
    assert_same(before, picture(model, updater=updater), exclude=["step"])
    assert updater.history == []


@pytest.mark.parametrize("name", ["rigl", "set", "sparse-momentum"])
def test_where_all_sparse_weights_are_frozen_there_is_nothing_to_do(name):
    model, optimizer, updater = make(name)
    for weight in regrow.sparse_weights(model).values():
        weight.parameter.requires_grad_(False)
    train(model, optimizer, by_backward, steps=8)
    assert updater.step == 8
    assert updater.history == []
    for weight in regrow.sparse_weights(model).values():
        weight.parameter.requires_grad_(True)
    train(model, optimizer, by_backward, steps=4)
    assert any(row["pruned"] for row in updater.history)


class Hidden:
    """A wrapper that steps by a method of its own, and shows nobody what it wraps."""

    def __init__(self, optimizer):
        self.advance = optimizer.step
        self.zero_grad = optimizer.zero_grad


@pytest.mark.parametrize(
    ("name", "storage"), [(n, s) for n in ("set", "sparse-momentum", "gmp", "dns") for s in METHODS[n].storages]
)
def test_an_optimizer_that_others_step_is_noticed(name, storage):
    """The updater hangs on one optimizer, and another one of the same parameters steps."""
    model, _, updater = make(name, storage)
    other = Hidden(OPTIMIZERS["momentum"](model))

    def trained():
        for step in range(25):
            other.zero_grad()
            by_backward(model, step)
            other.advance()

    with pytest.raises(RuntimeError, match=r"weight has had 20 gradients and its values have changed, .*seen no step"):
        trained()
    assert updater.step == 0


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_many_micro_batches_are_no_steps(storage):
    model, optimizer, updater = make("rigl", storage)
    for _ in range(2):
        optimizer.zero_grad()
        for step in range(50):
            by_backward(model, step, 1 / 50)
        optimizer.step()
    assert any(row["grown"] for row in updater.history)


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_a_closure_that_is_called_many_times_is_one_step(storage):
    model = sparse("set", storage)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=60, tolerance_grad=0, tolerance_change=0)
    updater = regrow.SET(model, optimizer, total_steps=10, update_every=1, seed=0)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = loss_at(model, 0, dtype=F64)
        loss.backward()
        calls.append(1)
        return loss

    optimizer.step(closure)
    optimizer.step(closure)
    assert len(calls) > 60
    assert updater.step == 2
