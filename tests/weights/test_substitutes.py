"""Forward passes with other parameters leave no trace: functional_call, torch.func, weights swapped for a while."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

import regrow
from helpers import assert_same, hooks, loss_at, mlp
from updaters.test_methods import METHODS, make, step_of

F64 = torch.float64
X = torch.randn(6, 8, dtype=F64, generator=torch.Generator().manual_seed(0))


def others(model):
    return {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}


def call(model):
    functional_call(model, others(model), (X,))


def call_with_parameters(model):
    functional_call(model, {name: nn.Parameter(p.detach()) for name, p in others(model).items()}, (X,)).sum().backward()


def slopes(model):
    own = {name: p.detach() for name, p in model.named_parameters()}
    grad(lambda p: functional_call(model, p, (X,)).square().sum())(own)


def of_each_sample(model):
    own = {name: p.detach() for name, p in model.named_parameters()}
    loss = grad(lambda p, x: functional_call(model, p, (x,)).square().sum())
    vmap(loss, in_dims=(None, 0))(own, X)


def swap_for_an_evaluation(model):
    """As averages of weights are evaluated; with a backward pass, as for an attack."""
    own = {m: m._parameters["weight"] for m in model if isinstance(m, nn.Linear | regrow.nn.SparseLinear)}
    for module, parameter in own.items():
        module.weight = nn.Parameter(parameter.detach() + 1)
    (100 * model(X)).square().sum().backward()
    for module, parameter in own.items():
        module.weight = parameter


def inner_step(model):
    """As MAML: weights that are no leaves."""
    own = dict(model.named_parameters())
    inner = torch.autograd.grad(model(X).square().sum(), list(own.values()), create_graph=True)
    fast = {name: p - 0.1 * g for (name, p), g in zip(own.items(), inner, strict=True)}
    functional_call(model, fast, (X,)).sum()


LOOKS = [call, call_with_parameters, slopes, of_each_sample, swap_for_an_evaluation, inner_step]


@pytest.mark.parametrize(
    ("name", "storage"),
    [(n, s) for n in ("sparse-momentum", "rigl", "deep-rewiring", "gmp", "top-kast") for s in METHODS[n].storages],
)
@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.__name__)
def test_a_training_goes_on_as_if_nobody_had_looked(name, storage, look):
    ends = []
    for looks in (False, True):
        model, optimizer, updater = make(name, storage)
        for step in range(11):
            step_of(model, optimizer, step)
            if looks and step in (3, 4, 6):
                biases = [p.grad for p in model.parameters()]
                look(model)
                for p, gradient in zip(model.parameters(), biases, strict=True):
                    p.grad = gradient
        ends.append({"model": model.state_dict(), "history": updater.history, "hooks": hooks(model)[1]})
    assert_same(*ends)


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_functional_gradients_are_those_of_the_dense_twin(storage):
    model = regrow.sparsify(mlp(8, 12, 4, dtype=F64), 0.3, seed=0, storage=storage)
    twin = regrow.densify(model)
    found = []
    for network in (model, twin):
        own = {name: p.detach() for name, p in network.named_parameters()}
        loss = grad(lambda p, x, n=network: functional_call(n, p, (x,)).square().sum())
        found.append((loss(own, X), vmap(loss, in_dims=(None, 0))(own, X)))
    mask = regrow.sparse_weights(model)["0.weight"]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours["0.bias"], theirs["0.bias"])
        weight = theirs["0.weight"].reshape(*theirs["0.weight"].shape[:-2], -1)
        mine = ours["0.weight"].reshape(*ours["0.weight"].shape[:-2], -1)
        if storage == "masked":
            torch.testing.assert_close(mine, weight)
        else:
            torch.testing.assert_close(mine, weight[..., mask.indices])


def test_another_models_masks_are_its_own():
    """functional_call with parameters and buffers of a network of another topology changes neither."""
    one, two = (regrow.sparsify(mlp(8, 12, 4, dtype=F64), 0.3, seed=seed, storage="masked") for seed in (0, 1))
    wanted, masks = two(X), copy.deepcopy(dict(two.named_buffers()))
    found = functional_call(one, (dict(two.named_parameters()), dict(two.named_buffers())), (X,))
    torch.testing.assert_close(found, wanted)
    assert_same(dict(two.named_buffers()), masks)
    assert regrow.check(one) == regrow.check(two) == []


def test_gradients_of_fast_weights_are_collected_at_the_weights_they_come_from():
    """Masked and dense, MAML gives the same meta-gradients at active positions, and none elsewhere."""
    model = regrow.sparsify(mlp(8, 12, 4, dtype=F64), 0.3, seed=0, storage="masked")
    twin = regrow.densify(model)
    for network in (model, twin):
        own = dict(network.named_parameters())
        inner = torch.autograd.grad(loss_at(network, 0, dtype=F64), list(own.values()), create_graph=True)
        fast = {name: p - 0.1 * g for (name, p), g in zip(own.items(), inner, strict=True)}
        functional_call(network, fast, (X,)).square().sum().backward()
    mask = model[0].weight_mask
    assert not model[0].weight.grad[~mask].any()
    torch.testing.assert_close(model[0].weight.grad[mask], twin[0].weight.grad[mask])
    torch.testing.assert_close(model[2].bias.grad, twin[2].bias.grad)
