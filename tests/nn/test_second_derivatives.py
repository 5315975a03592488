"""Derivatives of derivatives through compressed layers: gradient penalties, Hessians, topologies trained with them."""

import copy

import pytest
import torch
from torch import nn

import regrow
from regrow.nn import SparseConv2d, SparseLayer, SparseLinear, to_blocked

SHAPES = {"linear": (2, 4), "conv": (2, 2, 3, 3), "stride": (2, 2, 4, 3)}


def layer(kind, bias=True, compute="sparse"):
    torch.manual_seed(0)
    if kind == "linear":
        dense, cls = nn.Linear(4, 3, bias, dtype=torch.float64), SparseLinear
    else:
        stride = 2 if kind == "stride" else 1
        dense, cls = nn.Conv2d(2, 2, 3, stride, 1, bias=bias, dtype=torch.float64), SparseConv2d
    made = cls.from_dense(dense, torch.rand(dense.weight.shape) < 0.4)
    made.compute = compute
    return made


def example(kind):
    return torch.randn(SHAPES[kind], dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def differentiable(made, kind):
    """The layer as a function of its input and its parameters, and these."""
    names = [name for name, _ in made.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in made.parameters()]

    def run(x, *parameters):
        return torch.func.functional_call(made, dict(zip(names, parameters, strict=True)), (x,)).sin()

    return run, (example(kind).requires_grad_(), *values)


@pytest.mark.parametrize("compute", ["sparse", "dense"])
@pytest.mark.parametrize(("kind", "bias"), [("linear", True), ("linear", False), ("conv", False), ("stride", True)])
def test_second_derivatives(kind, bias, compute):
    run, inputs = differentiable(layer(kind, bias, compute), kind)
    assert torch.autograd.gradgradcheck(run, inputs)


@pytest.mark.parametrize("kind", ["linear", "stride"])
def test_third_derivatives(kind):
    run, inputs = differentiable(layer(kind), kind)

    def slopes(*inputs):
        return torch.autograd.grad(run(*inputs).square().sum(), inputs, create_graph=True)

    assert torch.autograd.gradgradcheck(slopes, inputs, fast_mode=True)


def test_second_derivatives_in_blocked_networks():
    net = nn.Sequential(
        layer("conv"), nn.BatchNorm2d(2, dtype=torch.float64), nn.ReLU(), layer("conv"), nn.AvgPool2d(2)
    )
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: net(to_blocked(x)).dense(), x, fast_mode=True)


def test_strides_of_the_input_do_not_matter():
    made, x = layer("linear"), torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: made(x.t()).sin(), x)


def test_the_last_layer_of_a_network_has_a_penalty():
    """Where the gradient that comes in is a constant, a result without a graph would pass for zero."""
    made, x = layer("linear"), example("linear").requires_grad_()
    (slope,) = torch.autograd.grad(made(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert made.weight.grad.abs().sum() > 0


# -- the gradient of inactive weights


def penalty(value, x, order):
    """A value in which derivatives by x of this order are."""
    for _ in range(order):
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        value = slope.square().sum()
    return value


@pytest.mark.parametrize("compute", ["sparse", "dense"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("kind", ["linear", "stride", "blocked"])
def test_the_gradient_of_inactive_weights_has_the_penalty_in_it(kind, order, compute):
    made, x = layer("conv" if kind == "blocked" else kind, compute=compute), example(kind.replace("blocked", "conv"))
    dense, x, seen = made.to_dense(), x.requires_grad_(), []
    penalty(dense(x).sin().sum(), x, order).backward()
    y = made(to_blocked(x)).dense() if kind == "blocked" else made(x)
    loss = penalty(y.sin().sum(), x, order)
    made.on_backward = lambda *pair: seen.append(made.dense_weight_grad(*pair))
    loss.backward()
    assert len(seen) >= 2
    torch.testing.assert_close(sum(seen), dense.weight.grad)


@pytest.mark.parametrize("compute", ["sparse", "dense"])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_nothing_is_seen_of_a_weight_that_wants_no_gradient(kind, compute):
    made, x, seen = layer(kind, compute=compute), example(kind).requires_grad_(), []
    made.on_backward = lambda *pair: seen.append(pair)
    constants = {name: p.detach() for name, p in made.named_parameters()}
    torch.func.functional_call(made, constants, (x,)).sum().backward()
    assert not seen
    made(x).sum().backward()
    assert len(seen) == 1


# -- training


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, stride=2)
        self.pool, self.out = nn.MaxPool2d(2), nn.Linear(6, 1)

    def forward(self, x):
        return self.out(self.pool(torch.tanh(self.conv2(torch.tanh(self.conv1(x))))).mean((2, 3)))


def mlp():
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Flatten(), nn.Linear(16, 1))


def wgan_gp(net, x):
    """Gulrajani et al. 2017, arXiv:1704.00028."""
    x = x.clone().requires_grad_()
    scores = net(x)
    (slopes,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    (scores.mean() + 10 * (slopes.flatten(1).norm(dim=1) - 1).square().mean()).backward()


def whole_graph(net, x):
    (net(x) - 1).square().mean().backward(create_graph=True)


def along_the_gradient(net, x):
    """The gradient of a loss, and its Hessian times that gradient."""
    loss, parameters = (net(x) - 1).square().mean(), list(net.parameters())
    slopes = torch.autograd.grad(loss, parameters, create_graph=True)
    weights = regrow.sparse_weights(net)
    held = {id(w.parameter): w for w in weights.values() if w.storage == "masked"}
    product = loss
    for parameter, slope in zip(parameters, slopes, strict=True):
        weight = held.get(id(parameter))
        direction = slope.detach() if weight is None else torch.where(weight.mask, slope.detach(), 0)
        product = product + 0.1 * (slope * direction).sum()
    product.backward()


def rigl(net, optimizer):
    return regrow.RigL(net, optimizer, total_steps=100, update_every=4, seed=0)


def sparse_momentum(net, optimizer):
    return regrow.SparseMomentum(net, optimizer, total_steps=100, update_every=4, window="all", seed=0)


def trained(dense, storage, updater, step, x):
    """Weights and active sets after some updates of the topology."""
    net = regrow.sparsify(copy.deepcopy(dense), 0.2, storage=storage, seed=0)
    for module in net.modules():
        if isinstance(module, SparseLayer):
            module.compute = "sparse"
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    updater(net, optimizer)
    for _ in range(10):
        optimizer.zero_grad()
        step(net, x)
        optimizer.step()
    weights = regrow.sparse_weights(net)
    assert {weight.storage for weight in weights.values()} == {storage}
    return regrow.densify(net).state_dict(), {name: weight.indices.sort().values for name, weight in weights.items()}


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("updater", [rigl, sparse_momentum])
@pytest.mark.parametrize("step", [wgan_gp, whole_graph, along_the_gradient])
@pytest.mark.parametrize("make", [mlp, Critic])
def test_both_storages_train_alike(make, step, updater):
    torch.manual_seed(0)
    dense = make().double()
    x = torch.randn(8, 12, dtype=torch.float64) if make is mlp else torch.randn(6, 2, 6, 6, dtype=torch.float64)
    (got, topology), (want, same) = (trained(dense, kind, updater, step, x) for kind in ("compressed", "masked"))
    first = regrow.sparse_weights(regrow.sparsify(copy.deepcopy(dense), 0.2, seed=0, storage="compressed"))
    assert any(not torch.equal(first[name].indices, indices) for name, indices in topology.items())
    for name, indices in same.items():
        assert torch.equal(topology[name], indices), name
    torch.testing.assert_close(got, want)
