"""Compressed layers under torch.func, forward-mode derivatives and tracers, and with weights that others changed."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.autograd.functional import jacobian
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.nn.utils import parametrizations, prune

import regrow
from nn.networks import twins
from regrow.nn import SparseConv2d, SparseLayer, SparseLinear


class Net(nn.Module):
    """Everything that stays in the blocked layout, where there is one."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.pool = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.MaxPool2d(2)
        self.conv2, self.out = nn.Conv2d(6, 5, 3, stride=2), nn.Linear(5, 4)

    def forward(self, x):
        x = self.pool(torch.relu(self.norm(self.conv1(x))))
        return self.out(torch.tanh(self.conv2(x)).mean((2, 3)))


def mlp():
    return nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 4))


INPUTS = {mlp: (3, 7), Net: (3, 3, 8, 8)}


def case(make, compute="sparse"):
    sparse, dense = twins(make)
    for module in sparse.modules():
        if isinstance(module, SparseLayer):
            module.compute = compute
    x = torch.randn(INPUTS[make], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return sparse.eval(), dense.eval(), x


def values(net):
    return {name: parameter.detach() for name, parameter in net.named_parameters()}


def loss(net):
    return lambda parameters, x: functional_call(net, parameters, (x,)).square().sum()


def active(sparse, gradients):
    """Dense gradients of parameters as a compressed network has them, with dimensions in front or without."""
    found = dict(gradients)
    for name, layer in sparse.named_modules():
        if isinstance(layer, SparseLayer):
            flat = gradients[f"{name}.weight"].flatten(-len(layer.dense_shape))
            found[f"{name}.weight"] = flat[..., layer.indices.long()].unsqueeze(-1)
    return found


def per_example(net, x):
    return vmap(grad(lambda p, x: loss(net)(p, x.unsqueeze(0))), (None, 0))(values(net), x)


def forward_mode(net, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(net(forward_ad.make_dual(x, x.flip(0)))).tangent


def stacked(net, x):
    parameters, buffers = stack_module_state([copy.deepcopy(net) for _ in range(2)])
    return vmap(lambda p, b: functional_call(net, (p, b), (x,)))(parameters, buffers)


TRANSFORMS = {
    "vmap": lambda net, x: vmap(net)(x.unsqueeze(1)),
    "jvp": lambda net, x: jvp(net, (x,), (x.flip(0),)),
    "vjp": lambda net, x: vjp(net, x)[1](torch.ones(len(x), 4, dtype=x.dtype)),
    "jacrev": lambda net, x: jacrev(net)(x[:1]),
    "jacfwd": lambda net, x: jacfwd(net)(x[:1]),
    "hessian": lambda net, x: hessian(lambda x: net(x).square().sum())(x[:1]),
    "forward mode": forward_mode,
    "ensemble": stacked,
    "one at a time": lambda net, x: jacobian(net, x[:1]),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("make", [mlp, Net])
def test_transforms(make, transform):
    sparse, dense, x = case(make)
    torch.testing.assert_close(TRANSFORMS[transform](sparse, x), TRANSFORMS[transform](dense, x))


@pytest.mark.parametrize("compute", ["sparse", "dense"])
@pytest.mark.parametrize("make", [mlp, Net])
def test_gradients_of_parameters(make, compute):
    sparse, dense, x = case(make, compute)
    torch.testing.assert_close(
        grad(loss(sparse))(values(sparse), x), active(sparse, grad(loss(dense))(values(dense), x))
    )
    torch.testing.assert_close(per_example(sparse, x), active(sparse, per_example(dense, x)))


@pytest.mark.parametrize("compute", ["sparse", "dense"])
def test_several_gradients_go_back_through_a_linear_layer_at_once(compute):
    sparse, dense, x = case(mlp, compute)
    torch.testing.assert_close(jacobian(sparse, x, vectorize=True), jacobian(dense, x))
    x.requires_grad_()
    output, several = sparse(x), torch.eye(12, dtype=x.dtype).view(12, 3, 4)
    rows = vmap(lambda row: torch.autograd.grad(output, x, row)[0])(several)
    torch.testing.assert_close(rows.view(3, 4, 3, 7), jacobian(dense, x))


def test_vmap_goes_back_through_a_convolution():
    dense = nn.Conv2d(2, 3, 3, padding=1).double()
    sparse, x = SparseConv2d.from_dense(dense), torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    sparse.compute = "sparse"
    output, several = sparse(x), torch.eye(48, dtype=x.dtype).view(48, 1, 3, 4, 4)
    rows = vmap(lambda row: torch.autograd.grad(output, x, row)[0])(several)
    torch.testing.assert_close(rows.view(1, 3, 4, 4, 1, 2, 4, 4), jacobian(dense, x))


@pytest.mark.skipif(regrow.ops.isa() == "reference", reason="every layer computes densely there")
@pytest.mark.parametrize("make", [Net, lambda: nn.Conv2d(3, 4, 3)])
def test_vectorised_derivatives_through_convolutions_are_refused(make):
    sparse = regrow.sparsify(make(), 0.1, storage="compressed")
    with pytest.raises(RuntimeError, match=r"use torch\.func\.jacrev"):
        jacobian(sparse, torch.randn(2, 3, 8, 8), vectorize=True)


# -- recorders


def exported(net, x):
    return torch.export.export(net, (x,)).module()(x)


def recorded_by_fx(net, x):
    graph = torch.fx.symbolic_trace(net)
    assert any(node.op == "call_module" for node in graph.graph.nodes)
    return graph(x)


def traced(net, x):
    return torch.jit.trace(net, x)(torch.cat([x, x]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("record", [exported, traced, recorded_by_fx])
@pytest.mark.parametrize("make", [mlp, Net])
def test_recorders(make, record):
    sparse, dense, x = case(make)
    torch.testing.assert_close(record(sparse, x), record(dense, x))


# -- weights of others


@pytest.mark.parametrize("compute", ["sparse", "dense"])
@pytest.mark.parametrize("shape", [(3, 4), (5, 1), (3, 1)])
def test_substitutes_of_a_wrong_shape_are_named(shape, compute):
    layer = SparseLinear(4, 3, positions=torch.tensor([0, 2, 5, 7]))
    layer.compute = compute
    with pytest.raises(RuntimeError, match=r"weight has shape .*, wanted \(4, 1\)"):
        functional_call(layer, {"weight": torch.ones(shape)}, (torch.ones(2, 4),))


CHANGES = {
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("make", [mlp, Net])
def test_a_weight_that_was_taken_away_is_named(make, change):
    sparse, _, x = case(make)
    layer = next(module for module in sparse.modules() if isinstance(module, SparseLayer))
    CHANGES[change](layer)
    for run in (sparse, vmap(sparse)):
        with pytest.raises(RuntimeError, match=r"taken away.*Remedy.*regrow\.export\.from_prune"):
            run(x if run is sparse else x.unsqueeze(1))


def test_a_bias_may_be_pruned():
    sparse, dense, x = case(mlp)
    for net in (sparse, dense):
        prune.l1_unstructured(net[0], "bias", amount=0.5)
    torch.testing.assert_close(sparse(x), dense(x))
