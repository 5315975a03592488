"""Adaptive clipping is that of the dense weights, row by row, in both storages."""

import copy

import pytest
import torch
from torch import nn

import regrow
from regrow.integrations.clipping import adaptive_clip_grad_


def network():
    torch.manual_seed(0)
    body = [nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv1d(6, 4, 1)]
    return nn.ModuleList([*body, nn.Linear(16, 5), nn.Linear(5, 3, bias=False)]).double()


SCALE = torch.tensor([1e-3, 1, 30], dtype=torch.float64)
"""Of the rows of the last layer, so that some of them are clipped and some are not."""


def output(model, scale):
    conv, norm, relu, conv1d, linear, last = model
    x = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return (last(linear(conv1d(relu(norm(conv(x))).flatten(2)).flatten(1))) * scale).sum()


def with_gradients(storage):
    """The same network and gradients in a storage; row 0 of a linear layer is empty, and a norm has no gradient."""
    torch.manual_seed(1)
    masks = {name: torch.rand(p.shape) < 0.4 for name, p in network().named_parameters() if p.dim() > 1}
    masks["4.weight"][0] = False
    model = regrow.sparsify(network(), None, init=masks, storage=storage)
    output(model, SCALE).backward()
    model[1].weight.grad = None
    return model


def gradients(model):
    """By name, dense."""
    weights = regrow.sparse_weights(model)
    found = {}
    for name, parameter in model.named_parameters():
        if name in weights:
            weight = weights[name]
            flat = torch.zeros(weight.numel, dtype=torch.float64)
            found[name] = flat.index_copy(0, weight.indices, weight.take(parameter.grad)).view(weight.shape)
        elif parameter.grad is not None:
            found[name] = parameter.grad
    return copy.deepcopy(found)


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, float("inf")])
@pytest.mark.parametrize("clip_factor", [0.01, 0.5])
def test_it_is_timms_on_the_dense_weights(storage, norm_type, clip_factor):
    timm = pytest.importorskip("timm.utils")
    model, dense = with_gradients(storage), regrow.densify(with_gradients("masked"))
    before = gradients(model)
    for name, parameter in dense.named_parameters():
        parameter.grad = before[name].clone() if name in before else None
    timm.adaptive_clip_grad(dense.parameters(), clip_factor, norm_type=norm_type)
    adaptive_clip_grad_(model, clip_factor, norm_type=norm_type)
    after = gradients(model)
    assert after.keys() == before.keys() != dict(model.named_parameters()).keys()
    for name, gradient in gradients(dense).items():
        torch.testing.assert_close(after[name], gradient, rtol=1e-12, atol=1e-15)
    clipped = torch.cat([(after[name] != before[name]).flatten(1).any(1) for name in ("0.weight", "5.weight")])
    assert 0 < clipped.sum() < len(clipped)


def test_by_hand():
    """Rows of norm 5 and 0 (counted as eps), with gradients of norm 10 and 4."""
    layer = regrow.sparsify(nn.Linear(3, 2, bias=False), None, init={"weight": torch.tensor([0, 2, 4])})
    layer.weight.data = torch.tensor([[3.0], [4.0], [0.0]])
    layer.weight.grad = torch.tensor([[6.0], [-8.0], [4.0]])
    adaptive_clip_grad_(layer, clip_factor=0.5, eps=0.1)
    torch.testing.assert_close(layer.weight.grad, torch.tensor([[1.5], [-2.0], [0.05]]))


MOVING = {"total_steps": 20, "update_every": 3}
METHODS = {
    "static": (regrow.Static, {}),
    "rigl": (regrow.RigL, MOVING),
    "sparse momentum": (regrow.SparseMomentum, MOVING | {"window": "all"}),
}


@pytest.mark.parametrize(("method", "settings"), METHODS.values(), ids=METHODS)
def test_storages_train_alike(method, settings):
    trained = []
    for storage in ("masked", "compressed"):
        model = with_gradients(storage)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        method(model, optimizer, **settings)
        for step in range(7):
            optimizer.zero_grad()
            output(model, SCALE.roll(step)).backward()
            adaptive_clip_grad_(model)
            optimizer.step()
        trained.append(regrow.densify(model).state_dict())
    for name, value in trained[0].items():
        torch.testing.assert_close(value, trained[1][name], rtol=0, atol=1e-10)


@pytest.mark.parametrize("settings", [{"clip_factor": 0}, {"eps": -1.0}, {"norm_type": float("nan")}])
def test_arguments_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}=.* must be above 0"):
        adaptive_clip_grad_(nn.Linear(2, 2), **settings)
