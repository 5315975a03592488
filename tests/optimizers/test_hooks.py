"""Wrappers are looked through, and what they keep moves with the weights; histories of all weights begin anew."""

from collections import OrderedDict

import pytest
import torch

import regrow
from helpers import indices, loss_at, mlp
from regrow.optimizers.hooks import innermost, keeps_history, nested

STORAGES = ("masked", "compressed")
stored = pytest.mark.parametrize("storage", STORAGES)


def sparse(storage):
    return regrow.sparsify(mlp(8, 12, 4, dtype=torch.float64), 0.3, storage=storage, seed=0)


def gradients(model, step):
    model.zero_grad()
    loss = loss_at(model, step, dtype=torch.float64)
    loss.backward()
    return loss


class SharpnessAware(torch.optim.Optimizer):
    """Climbs, and then steps from where it was with the gradient up there."""

    def __init__(self, parameters, base, **settings):
        super().__init__(parameters, settings)
        self.base_optimizer = base(self.param_groups, **settings)

    @torch.no_grad()
    def first_step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["old_p"] = parameter.clone()
                parameter += 0.05 * parameter.grad

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.copy_(self.state[parameter]["old_p"])
        self.base_optimizer.step()


class SlowWeights(torch.optim.Optimizer):
    """Goes back half the way to slow weights after each third step, as Lookahead does."""

    def __init__(self, base, stray=0.0):
        super().__init__(base.param_groups, {})
        self.inside, self.stray, self.steps = base, stray, 0
        for group in base.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["slow"] = parameter.detach().clone()

    @torch.no_grad()
    def step(self, closure=None):
        self.inside.step(closure)
        self.steps += 1
        for parameter, state in self.state.items() if self.steps % 3 == 0 else ():
            state["slow"] += 0.5 * (parameter - state["slow"])
            parameter.copy_(state["slow"] + self.stray)


def momentum_sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


@stored
def test_an_optimizer_that_is_stepped_by_its_own_methods_updates_the_topology(storage):
    model = sparse(storage)
    optimizer = SharpnessAware(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    updater = regrow.SparseMomentum(model, optimizer, total_steps=100, update_every=4)
    assert updater.optimizer is optimizer.base_optimizer
    for step in range(9):
        gradients(model, step)
        optimizer.first_step()
        gradients(model, step)
        optimizer.second_step()
    assert updater.step == 9
    assert sum(row["grown"] for row in updater.history) > 0


@stored
@pytest.mark.parametrize("stray", [0.0, 0.1])
def test_what_a_wrapper_keeps_moves_with_the_weights(storage, stray):
    model = sparse(storage)
    optimizer = SlowWeights(momentum_sgd(model), stray)
    regrow.RigL(model, optimizer, total_steps=100, update_every=2)
    weight = regrow.sparse_weights(model)["0.weight"]
    for step in range(6):
        before = indices(model)["0.weight"]
        gradients(model, step)
        optimizer.step()
        slow = optimizer.state[weight.parameter]["slow"]
        assert slow.shape == weight.parameter.shape
        new = torch.tensor([position not in before for position in weight.indices.tolist()])
        if step in (1, 3):
            assert new.any()
            assert not weight.take(slow)[new].any()
        if storage == "masked":
            assert not weight.parameter.detach()[~weight.mask].any()


class Noting(torch.optim.Optimizer):
    """Notes weights before its optimizer steps and writes afterwards, as schedule-free wrappers do."""

    def __init__(self, base):
        super().__init__(base.param_groups, {})
        self.inside = base

    @torch.no_grad()
    def step(self, closure=None):
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        before = [parameter.clone() for parameter in parameters]
        self.inside.step(closure)
        for parameter, old in zip(parameters, before, strict=True):
            parameter.lerp_(old, 0.1)


class Unhooked(SlowWeights):
    """Does not call Optimizer.__init__, as timm's Lookahead."""

    def __init__(self, base):
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = OrderedDict(), OrderedDict()
        self.inside, self.stray, self.steps, self.param_groups = base, 0.0, 0, base.param_groups
        parameters = [parameter for group in base.param_groups for parameter in group["params"]]
        self.state = {parameter: {"slow": parameter.detach().clone()} for parameter in parameters}


@pytest.mark.parametrize("wrapper", [SlowWeights, Noting, Unhooked, lambda base: Noting(SlowWeights(base))])
def test_wrapped_training_is_the_same_in_both_storages(wrapper):
    values = []
    for storage in STORAGES:
        model = sparse(storage)
        optimizer = wrapper(momentum_sgd(model))
        updater = regrow.RigL(model, optimizer, total_steps=100, update_every=2)
        for step in range(8):
            gradients(model, step)
            optimizer.step()
            assert updater.step == step + 1
        assert sum(row["grown"] for row in updater.history) > 0
        values.append({name: weight.values for name, weight in regrow.sparse_weights(model).items()})
    for name, ours in values[0].items():
        torch.testing.assert_close(ours, values[1][name], rtol=1e-9, atol=1e-12)


def test_optimizers_of_other_parameters_are_not_wrapped():
    model, other = sparse("masked"), sparse("masked")
    optimizer = momentum_sgd(model)
    optimizer.helper = momentum_sgd(other)
    optimizer.itself = optimizer
    assert nested(optimizer) == [optimizer]
    with pytest.raises(TypeError, match="got dict"):
        innermost({})


class Proxy:
    """A wrapper that is no optimizer itself, as Fabric's."""

    def __init__(self, optimizer):
        self.optimizer = optimizer


def test_proxies_and_the_lookahead_of_timm():
    optimizer = momentum_sgd(sparse("masked"))
    assert innermost(Proxy(optimizer)) is optimizer
    timm = pytest.importorskip("timm.optim")
    assert innermost(timm.Lookahead(optimizer)) is optimizer


@stored
@pytest.mark.parametrize("method", [regrow.SET, regrow.DeepRewiring])
def test_lbfgs_begins_anew_when_weights_have_moved(storage, method):
    model = sparse(storage)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3)
    every = 1 if method is regrow.DeepRewiring else 3
    more = {"l1": 0.5, "noise": 0.0} if method is regrow.DeepRewiring else {}
    method(model, optimizer, total_steps=100, update_every=every, seed=0, **more)
    moved, losses = [], []
    for _ in range(8):
        before = indices(model)
        losses.append(float(optimizer.step(lambda: gradients(model, 0)).detach()))
        moved.append(indices(model) != before)
        assert bool(optimizer.state) != moved[-1]
        assert keeps_history(optimizer) != moved[-1]
    assert any(moved)
    assert losses[-1] < losses[0]


def test_an_update_that_moves_nothing_leaves_a_history():
    model = sparse("masked")
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    updater = regrow.SET(model, optimizer, total_steps=9, update_every=None, prune_rate=0.0, seed=0)
    optimizer.step(lambda: gradients(model, 0))
    assert sum(row["pruned"] for row in updater.update()) == 0
    assert keeps_history(optimizer)


class OwnStep(torch.optim.SGD):
    """Steps by the step of its base class, of which torch calls hooks too once an optimizer of that class was made."""

    def step(self, closure=None):
        return super().step(closure)


@stored
@pytest.mark.parametrize("with_closure", [False, True])
def test_steps_of_subclasses_count_once(storage, with_closure):
    model = sparse(storage)
    momentum_sgd(model)
    optimizer = OwnStep(model.parameters(), lr=0.1)
    updater = regrow.RigL(model, optimizer, total_steps=100, update_every=3)
    for step in range(4):
        gradients(model, step)
        optimizer.step((lambda step=step: gradients(model, step)) if with_closure else None)
    assert updater.step == 4
    assert {row["step"] for row in updater.history} == {3}


def test_a_step_that_fails_is_none():
    model = sparse("masked")
    momentum_sgd(model)
    optimizer = OwnStep(model.parameters(), lr=0.1)
    updater = regrow.Static(model, optimizer)

    def fail():
        raise ValueError("no loss")

    with pytest.raises(ValueError, match="no loss"):
        optimizer.step(fail)
    gradients(model, 0)
    optimizer.step()
    assert updater.step == 1
