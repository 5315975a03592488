"""Compressed layers against their dense twins, and how they travel."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import regrow
from regrow.nn import SparseConv2d, SparseLinear
from regrow.ops import info, plan_bytes

CONVS = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "stride": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "1x1": {"kernel_size": 1},
    "oblong": {"kernel_size": (1, 3), "padding": (0, 1), "stride": (2, 1)},
    "same": {"kernel_size": 5, "padding": "same"},
}


def masked(dense, density, seed=0):
    """A dense layer with zeros outside a random mask, and that mask."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(dense.weight.shape, generator=generator) < density
    with torch.no_grad():
        dense.weight.mul_(mask)
    return dense, mask


def linear(density=0.2, bias=True, dtype=torch.float64):
    dense, mask = masked(nn.Linear(13, 7, bias=bias, dtype=dtype), density)
    return dense, SparseLinear.from_dense(dense, mask), torch.randn(5, 13, dtype=dtype)


def conv(name="3x3", density=0.2, bias=True, dtype=torch.float64):
    dense, mask = masked(nn.Conv2d(3, 6, **CONVS[name], bias=bias, dtype=dtype), density)
    return dense, SparseConv2d.from_dense(dense, mask), torch.randn(5, 3, 7, 6, dtype=dtype)


def gradients(layer, x):
    """Output and the gradients of input, weight and bias under a fixed output gradient."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
    grads = [p.grad.clone() for p in (layer.weight, layer.bias) if p is not None]
    return y.detach(), x.grad, grads


def assert_same(dense, sparse, x):
    """Same output and gradients; the weight gradient where active."""
    y, dx, grads = gradients(sparse, x)
    want_y, want_dx, want_grads = gradients(dense, x)
    torch.testing.assert_close(y, want_y)
    torch.testing.assert_close(dx, want_dx)
    want_grads[0] = want_grads[0].reshape(-1)[sparse.indices.long()].unsqueeze(1)
    for got, want in zip(grads, want_grads, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("compute", ["sparse", "dense"])
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_the_dense_layer(density, bias, compute):
    dense, sparse, x = linear(density, bias)
    sparse.compute = compute
    assert_same(dense, sparse, x)


@pytest.mark.parametrize("compute", ["sparse", "dense"])
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("name", CONVS)
def test_conv_is_the_dense_layer(name, density, compute):
    dense, sparse, x = conv(name, density)
    sparse.compute = compute
    assert_same(dense, sparse, x)
    assert_same(dense, sparse, x.to(memory_format=torch.channels_last))


@pytest.mark.parametrize("compute", ["auto", "sparse", "dense"])
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_few_images_without_gradients(name, density, compute, memory_format):
    """Two images and one are computed with lanes along pixels, five in the blocked layout."""
    dense, sparse, x = conv(name, density)
    sparse.compute, sparse.blocked_output = compute, True
    x = x.contiguous(memory_format=memory_format)
    with torch.no_grad():
        for images in (x[:1], x[:2], x):
            torch.testing.assert_close(sparse(images) + 0, dense(images))
        torch.testing.assert_close(sparse(x[0]) + 0, dense(x[0]))
        for images in (x[:0], x[:1]):
            assert sparse(images).shape == dense(images).shape
    with torch.inference_mode():
        torch.testing.assert_close(sparse(x[:1]) + 0, dense(x[:1]))
    assert_same(dense, sparse, x[:1])


@pytest.mark.skipif(not info()["loaded"], reason="the native kernels are not loaded")
def test_few_images_stay_out_of_the_layout_through_a_network():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3))
    model = regrow.sparsify(model, 0.2, storage="compressed").eval()
    x = torch.randn(1, 3, 12, 12)
    with torch.no_grad(), torch.profiler.profile() as profile:
        few = model(x)
    names = {event.key for event in profile.key_averages()}
    assert "regrow::sparse_conv2d_pixels" in names
    assert not any(name in names for name in ("regrow::to_blocked", "regrow::sparse_conv2d", "regrow::blocked_norm"))
    torch.testing.assert_close(few, model(x.repeat(20, 1, 1, 1)).detach()[:1])


def test_leading_dims_and_unbatched():
    dense, sparse, _ = linear()
    for shape in [(13,), (2, 3, 13), (0, 13)]:
        assert_same(dense, sparse, torch.randn(*shape, dtype=torch.float64))
    assert_same(dense, sparse, torch.randn(13, 4, dtype=torch.float64).t())
    dense, sparse, x = conv()
    assert_same(dense, sparse, x[0])
    assert_same(dense, sparse, x[:0])


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize(("inputs", "outputs"), [(8, 0), (0, 4), (0, 0)])
def test_layers_without_inputs_or_outputs(inputs, outputs):
    dense = nn.Linear(inputs, outputs)
    sparse = SparseLinear.from_dense(dense, torch.zeros(dense.weight.shape, dtype=torch.bool))
    assert_same(dense, sparse, torch.randn(3, inputs))


def test_the_parameter_is_active_by_one_in_ascending_order():
    dense, sparse, _ = linear()
    positions, order = sparse.positions()
    assert sparse.weight.shape == (sparse.active, 1)
    assert positions.dtype == torch.int64
    torch.testing.assert_close(dense.weight.reshape(-1)[positions], sparse.weight[order, 0])
    assert 0 < sparse.density < 1
    assert "active=" in repr(sparse)


def test_topology_changes_in_place_while_the_last_loss_is_kept():
    _, sparse, x = conv()
    parameter, kept = sparse.weight, []
    for count in (4, 40, 0, 9):
        positions = torch.randperm(sparse.dense_shape.numel())[:count].sort().values
        values = torch.randn(count, dtype=torch.float64)
        sparse.set_topology(positions, values)
        assert sparse.weight is parameter
        assert parameter.grad is None
        assert parameter.is_leaf
        loss = sparse(x).square().sum()
        loss.backward()
        kept.append(loss)
        assert parameter.grad.shape == (count, 1)
        values.zero_()  # the layer holds its own copy
        assert_same(sparse.to_dense(), sparse, x)


@pytest.mark.parametrize(
    ("positions", "values", "text"),
    [
        (torch.tensor([1, 1]), torch.zeros(2), "twice"),
        (torch.tensor([2, 1]), torch.zeros(2), "out of order"),
        (torch.tensor([-1, 1]), torch.zeros(2), "out of range"),
        (torch.tensor([0, 91]), torch.zeros(2), "out of range"),
        (torch.tensor([[0, 3]]), torch.zeros(2), "flatten"),
        (torch.tensor([0.0, 3.0]), torch.zeros(2), "float32, wanted int64"),
        (torch.tensor([0, 3]), torch.zeros(3), "3 values for 2 positions"),
        (torch.tensor([0, 3]), torch.zeros(2).half(), "values are torch.float16"),
    ],
)
def test_bad_topologies_change_nothing(positions, values, text):
    _, sparse, _ = linear()
    values = values if values.dtype == torch.half else values.double()
    before = (sparse.indices.clone(), sparse.weight.detach().clone())
    with pytest.raises((TypeError, ValueError), match=text):
        sparse.set_topology(positions, values)
    assert torch.equal(sparse.indices, before[0])
    assert torch.equal(sparse.weight, before[1])


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("make", [linear, conv])
def test_state_dict_into_a_fresh_layer_of_another_length(make, assign):
    dense, sparse, x = make(density=0.4)
    stored = io.BytesIO()
    torch.save(sparse.state_dict(), stored)
    stored.seek(0)
    other = make(density=0.1)[1]
    other(x).sum().backward()
    other.load_state_dict(torch.load(stored), assign=assign)
    assert other.active == sparse.active
    assert_same(dense, other, x)


def test_a_bad_state_dict_is_an_error():
    _, sparse, _ = linear()
    state = sparse.state_dict()
    state["indices"] = state["indices"].flip(0)
    with pytest.raises(RuntimeError, match="out of order"):
        linear()[1].load_state_dict(state)
    state = sparse.state_dict()
    state["weight"] = state["weight"][1:]
    with pytest.raises(RuntimeError, match="indices"):
        linear()[1].load_state_dict(state)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("make", [linear, conv])
def test_copies_are_independent(make, duplicate):
    dense, sparse, x = make()
    sparse(x)
    sparse.on_backward = lambda *_: None
    twin = duplicate(sparse)
    assert twin.on_backward is None
    sparse.set_topology(torch.tensor([0]), torch.ones(1, dtype=torch.float64))
    assert_same(dense, twin, x)


@pytest.mark.parametrize("make", [linear, conv])
def test_moves_without_kernels_are_refused(make):
    _, sparse, x = make()
    for move in (lambda: sparse.half(), lambda: sparse.bfloat16(), lambda: sparse.to("cuda")):
        with pytest.raises(RuntimeError, match="densify"):
            move()
    before = sparse(x)
    torch.testing.assert_close(sparse.float()(x.float()), before.float(), rtol=1e-4, atol=1e-5)
    assert sparse.double()(x).dtype == torch.float64


def test_dtype_mismatch_is_refused_and_autocast_is_served():
    _, sparse, x = linear()
    with pytest.raises(RuntimeError, match=r"input is torch\.float32"):
        sparse(x.float())
    for make in (linear, conv):
        for compute in ("sparse", "dense"):
            _, sparse, x = make(dtype=torch.float32)
            sparse.compute = compute
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = sparse(x.bfloat16().requires_grad_())
            assert y.dtype == torch.float32
            y.sum().backward()


def test_what_cannot_be_served_is_refused():
    with pytest.raises(ValueError, match="groups=2"):
        SparseConv2d.from_dense(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(ValueError, match="padding_mode"):
        SparseConv2d.from_dense(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(ValueError, match="same"):
        SparseConv2d.from_dense(nn.Conv2d(4, 4, 4, padding="same"))
    with pytest.raises(TypeError, match="float16"):
        SparseLinear.from_dense(nn.Linear(4, 4).half())
    with pytest.raises(ValueError, match="mask has shape"):
        SparseLinear.from_dense(nn.Linear(4, 5), torch.ones(4, 5, dtype=torch.bool))
    with pytest.raises(RuntimeError, match="wanted"):
        SparseLinear(4, 5)(torch.randn(3, 5))
    with pytest.raises(RuntimeError, match="wanted"):
        SparseConv2d(4, 5, 3)(torch.randn(3, 5, 8, 8))


@pytest.mark.parametrize("compute", ["sparse", "dense"])
@pytest.mark.parametrize("make", [linear, conv])
def test_the_backward_callback_sees_what_a_dense_gradient_needs(make, compute):
    dense, sparse, x = make()
    sparse.compute = compute
    seen = []
    sparse.on_backward = lambda input, grad: seen.append(sparse.dense_weight_grad(input, grad))
    gradients(sparse, x)
    sparse.on_backward = None
    gradients(sparse, x)
    (want, *_) = gradients(dense, x)[2]
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], want)


@pytest.mark.parametrize("make", [linear, conv])
def test_gradcheck(make):
    _, sparse, x = make()
    run = type(sparse).forward
    assert torch.autograd.gradcheck(lambda *_: run(sparse, x), (sparse.weight, sparse.bias))
    x = x[:2].requires_grad_()
    assert torch.autograd.gradcheck(sparse, (x,))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("make", [linear, conv])
def test_checkpointing(make, reentrant):
    _, sparse, x = make()
    x.requires_grad_()
    checkpoint(sparse, x, use_reentrant=reentrant).square().sum().backward()
    got, sparse.weight.grad = sparse.weight.grad, None
    sparse(x).square().sum().backward()
    torch.testing.assert_close(got, sparse.weight.grad)


def test_a_nearly_dense_layer_computes_densely():
    dense, sparse, x = linear(density=1.0)
    assert sparse.computes_dense()
    assert_same(dense, sparse, x)


def test_training_reduces_the_loss():
    torch.manual_seed(0)
    net = nn.Sequential(conv(dtype=torch.float32)[1], nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    x, y = torch.randn(8, 3, 7, 6), torch.randint(4, (8,))
    net(x)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.skipif(not info()["loaded"], reason="the reference keeps no plan")
def test_memory_of_a_layer_is_below_a_fifth_of_dense_at_5_percent():
    """Parameter, gradient and momentum at the parameter's size, positions, and the plan's offsets and permutation."""
    layer = SparseLinear(512, 512, bias=False, positions=torch.randperm(512 * 512)[:13107].sort().values)
    layer(torch.randn(4, 512)).sum().backward()
    plans = sum(plan_bytes(plan) for plan in layer._plans.values())
    momentum = torch.zeros_like(layer.weight)
    sizes = [tensor.nbytes for tensor in (layer.weight, layer.weight.grad, momentum, layer.indices)]
    assert plans >= 3 * 4 * layer.active
    assert sum(sizes) + plans <= 0.2 * 3 * 4 * 512 * 512
