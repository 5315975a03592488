"""BlockedTensor passes for the ordinary tensor: in every operation, in autograd, and everywhere else."""

import copy
import gc
import io
import pickle
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nn.networks import dropout_as_blocked
from regrow.nn import BlockedTensor, SparseConv2d, to_blocked
from regrow.nn.blocked import ordinary, recording

SHAPE = (5, 4, 6, 8)


def conv(channels=4):
    torch.manual_seed(0)
    dense = nn.Conv2d(channels, 4, 3, padding=1, dtype=torch.float64)
    layer = SparseConv2d.from_dense(dense, torch.rand(dense.weight.shape) < 0.3)
    layer.compute = "sparse"  # whatever this instruction set's table says of so dense a layer
    return layer


def norm(channels=4):
    torch.manual_seed(1)
    layer = nn.BatchNorm2d(channels, dtype=torch.float64)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer


def reused(x):
    """A relu in place whose input is used again: both see what was written."""
    y = x * 1
    z = F.relu(y, inplace=True)
    return y * 2 + z


def sums(x):
    y = norm()(x)
    y += x
    z = F.relu(y) + y
    z -= x * 0.5
    return z


def hard_pool(x):
    return F.max_pool2d(F.relu(norm()(x)), 3, 2, 1)


def twice_pooled(x):
    y = F.relu(norm()(x))
    return F.max_pool2d(y, 2) + F.avg_pool2d(y, 2) + y[:, :, ::2, 1::2]


def dropped(x):
    torch.manual_seed(3)
    return dropout_as_blocked(F.relu(norm()(x)), 0.4)


def dropped_in_place(x):
    torch.manual_seed(3)
    return dropout_as_blocked(x * 1, 0.4, inplace=True)


def dropped_channels(x):
    torch.manual_seed(3)
    if isinstance(x, BlockedTensor):
        return F.dropout2d(x, 0.4)
    return x * F.dropout2d(to_blocked(torch.ones_like(x)), 0.4).dense()


def put_into_an_ordinary_tensor(x):
    out = torch.zeros(len(x), 6, 6, 8, dtype=x.dtype)
    out[:, 1:5] = x
    return out


BLOCKED = {
    "relu": F.relu,
    "torch.relu": torch.relu,
    "relu, input used again": reused,
    "norm": lambda x: norm()(x),
    "norm, evaluated": lambda x: norm().eval()(x),
    "norm, relu": lambda x: F.relu(norm()(x), inplace=True),
    "norm, relu, pool": lambda x: F.max_pool2d(F.relu(norm()(x)), 2),
    "norm, pool, relu": lambda x: F.relu(F.max_pool2d(norm()(x), 2)),
    "norm, norm": lambda x: norm()(norm()(x)),
    "relu, norm": lambda x: norm()(F.relu(x)),
    "overlapping pool": hard_pool,
    "relu, pool": lambda x: F.max_pool2d(F.relu(x), 2, ceil_mode=True),
    "pool": lambda x: nn.MaxPool2d(3, 1, 1, dilation=2)(x),
    "adaptive max pool": lambda x: F.adaptive_max_pool2d(F.relu(x), (3, 5)),
    "average pool": lambda x: F.avg_pool2d(F.relu(x), 3, 2, 1, count_include_pad=False),
    "adaptive average pool": lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
    "global average pool": lambda x: nn.AdaptiveAvgPool2d(1)(F.relu(norm()(x))),
    "mean of planes": lambda x: F.relu(x).mean((-1, -2), keepdim=True),
    "sums": sums,
    "scaled sum": lambda x: torch.add(x, F.relu(x), alpha=0.5),
    "numbers": lambda x: -(x * 2) / 3 + 0.25 * x,
    "product": lambda x: x * F.relu(x),
    "gate of channels": lambda x: x * F.adaptive_avg_pool2d(x, 1),
    "concatenation": lambda x: torch.cat([F.relu(x), x, norm()(x)], 1),
    "concatenation by name": lambda x: torch.concat((x, x), dim=-3),
    "dropout": dropped,
    "dropout in place": dropped_in_place,
    "dropout of channels": dropped_channels,
    "silu": F.silu,
    "gelu": F.gelu,
    "leaky relu in place": lambda x: F.leaky_relu(x * 1, 0.1, inplace=True),
    "tanh": torch.tanh,
    "clone": lambda x: x.clone() + x.detach(),
    "convolution": lambda x: conv()(x),
    "convolution, norm, relu, pool": lambda x: F.max_pool2d(F.relu(norm()(conv()(x))), 2),
    "zeros": lambda x: x + torch.zeros_like(x),
}
ORDINARY = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: x.softmax(1),
    "add number": lambda x: x + 1,
    "broadcast": lambda x: x * torch.arange(8, dtype=x.dtype),
    "flatten": lambda x: x.flatten(1),
    "view": lambda x: x.view(5, -1),
    "reshape, transpose": lambda x: x.reshape(5, 4, -1).transpose(1, 2),
    "index": lambda x: x[1:3, :, 2],
    "channels": lambda x: x[:, 1:3],
    "subsample": lambda x: x[:, :, ::2, ::2],
    "chunk": lambda x: x.chunk(2, 1)[1],
    "pad": lambda x: F.pad(x, (1, 1, 0, 2)),
    "indices of a pool": lambda x: F.max_pool2d(x, 2, return_indices=True)[1].double() + x.sum(),
    "lp pool": lambda x: F.lp_pool2d(F.relu(x) + 1, 2, 2),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2),
    "layer norm": lambda x: F.layer_norm(x, (8,)),
    "group norm": lambda x: F.group_norm(x, 2),
    "instance norm": lambda x: F.instance_norm(x),
    "convolution": lambda x: F.conv2d(x, torch.ones(2, 4, 3, 3, dtype=x.dtype)),
    "stack": lambda x: torch.stack([x, x]),
    "concatenation of images": lambda x: torch.cat([x, x], 0),
    "sum": lambda x: x.sum((0, 2)),
    "mean": lambda x: x.mean(),
    "mean of features": lambda x: x.mean((2, 3)),
    "mean of features, by names": lambda x: torch.mean(input=x, dim=(2, 3)),
    "mean of channels": lambda x: x.mean(1),
    "clamp in place": lambda x: (x * 1).clamp_(-0.1, 0.2),
    "relu6 in place": lambda x: F.relu6(x * 1, inplace=True),
    "randomized relu, evaluated": lambda x: F.rrelu(x),
    "assignment": put_into_an_ordinary_tensor,
    "einsum": lambda x: torch.einsum("nchw,ncij->nhi", x, x),
    "loss": lambda x: F.mse_loss(x, torch.ones(SHAPE, dtype=x.dtype)),
    "dtype": lambda x: x.float().double(),
}
ALL = BLOCKED | {f"ordinary {name}": function for name, function in ORDINARY.items()}


def run(function, x, wrap):
    """Value, gradient of the input, and the type of the value."""
    x = x.clone().requires_grad_()
    y = function(wrap(x))
    torch.manual_seed(4)
    weights = torch.randn(y.shape, dtype=y.dtype)
    (y * weights).sum().backward()
    return y.dense() if isinstance(y, BlockedTensor) else y, x.grad, type(y)


@pytest.mark.parametrize("batch", [5, 8])
@pytest.mark.parametrize("name", ALL)
def test_values_and_gradients_are_the_same(name, batch):
    torch.manual_seed(0)
    x = torch.randn(batch, *SHAPE[1:], dtype=torch.float64)
    if batch != SHAPE[0] and name in ("ordinary view", "ordinary reshape, transpose", "ordinary loss"):
        x = x[: SHAPE[0]]
    want, check_grad, _ = run(ALL[name], x, lambda x: x)
    got, grad, kind = run(ALL[name], x, to_blocked)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(grad, check_grad)
    assert (kind is BlockedTensor) == (
        name in BLOCKED or name in ("ordinary clamp in place", "ordinary relu6 in place")
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("apart", [10, 100, 1000])
def test_batch_norm_is_as_near_to_float64_as_dense(apart, training):
    """With channels whose mean is that many times their deviation."""
    torch.manual_seed(0)
    deviation, mean, weight, bias = (torch.rand(4, 16, 1, 1) + 0.5).unbind()
    x = deviation * (torch.randn(20, 16, 7, 9) + apart * mean)
    seen = (x.mean((0, 2, 3)), x.var((0, 2, 3)))
    upstream = torch.randn(x.shape)

    def run(convert, dtype):
        inner = x.to(dtype, copy=True).requires_grad_()
        others = (t.to(dtype, copy=True).flatten() for t in (*seen, weight, bias))
        y = F.relu(F.batch_norm(convert(inner), *others, training))
        y.backward(convert(upstream.to(dtype)))
        return (y.dense() if isinstance(y, BlockedTensor) else y).detach().double(), inner.grad.double()

    exact, dense, own = run(torch.clone, torch.float64), run(torch.clone, torch.float32), run(to_blocked, torch.float32)
    for want, theirs, ours in list(zip(exact, dense, own, strict=True))[: 1 + training]:  # else no gradient of moments
        assert (ours - want).norm() <= (theirs - want).norm()
    assert (own[0] - exact[0]).norm() < 1e-7 * exact[0].norm()  # as if only the result had been rounded


@pytest.mark.parametrize("name", BLOCKED)
def test_nothing_is_converted_on_the_way(name):
    x = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    blocked = to_blocked(x)
    with recording() as log:
        y = BLOCKED[name](blocked)
        y.backward(to_blocked(torch.randn(y.shape, dtype=y.dtype)))
    assert [c.operation for c in log] == ["to_blocked", "to_blocked backward"]


def test_dropout_keeps_its_share_and_draws_from_torchs_generator():
    """p and the mean hold to a few standard deviations; the same seed gives the same noise, another one other noise."""
    ones = to_blocked(torch.ones(64, 8, 16, 16))
    torch.manual_seed(5)
    first, second = F.dropout(ones, 0.3).dense(), F.dropout(ones, 0.3).dense()
    torch.manual_seed(5)
    assert torch.equal(F.dropout(ones, 0.3).dense(), first)
    assert first.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    kept, again = first > 0, second > 0
    for noise in (kept, again):
        assert float(noise.double().mean()) == pytest.approx(0.7, abs=0.005)
    assert float((kept & again).double().mean()) == pytest.approx(0.49, abs=0.005)
    for neighbours in ((kept[1:], kept[:-1]), (kept[:, 1:], kept[:, :-1]), (kept[..., 1:], kept[..., :-1])):
        assert float((neighbours[0] & neighbours[1]).double().mean()) == pytest.approx(0.49, abs=0.006)
    assert ordinary(F.dropout(ones, 1.0), "test").count_nonzero() == 0
    assert F.dropout(ones, 0.3, training=False) is ones


def test_several_uses_of_one_value():
    x = torch.randn(SHAPE, dtype=torch.float64)
    want, got = run(twice_pooled, x, lambda x: x), run(twice_pooled, x, to_blocked)
    torch.testing.assert_close(got[:2], want[:2])


def test_second_derivatives_of_what_has_them():
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: F.silu(to_blocked(x)).dense(), x)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AdaptiveMaxPool2d(2)])
def test_second_derivatives_of_max_pools(pool):
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: pool(F.silu(to_blocked(x))).dense() ** 2, x)


# -- in autograd


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_and_full_backward_hooks(reentrant):
    layer, x = conv(), torch.randn(SHAPE, dtype=torch.float64)
    net = nn.Sequential(layer, norm(), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    fired = []
    layer.register_full_backward_hook(lambda module, grad_in, grad_out: fired.append(grad_in[0].shape))
    want = run(net, x, lambda x: x)
    got = run(lambda x: checkpoint(net, x, use_reentrant=reentrant), x, to_blocked)
    assert fired == [torch.Size(SHAPE)] * 2
    assert got[2] is BlockedTensor
    torch.testing.assert_close(got[:2], want[:2])


def test_hooks_on_tensors_and_kept_gradients():
    x = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    seen = []
    y = F.relu(norm()(to_blocked(x)))
    y.retain_grad()
    y.register_hook(lambda grad: seen.append(grad) or grad * 2)
    F.max_pool2d(y, 2).sum().backward()
    torch.testing.assert_close(y.grad.dense(), seen[0].dense() * 2)
    plain = x.detach().clone().requires_grad_()
    z = F.relu(norm()(plain))
    z.register_hook(lambda grad: grad * 2)
    F.max_pool2d(z, 2).sum().backward()
    torch.testing.assert_close(x.grad, plain.grad)


def test_gradients_with_respect_to_it_can_be_asked_for():
    x = to_blocked(torch.randn(SHAPE)).detach().requires_grad_()
    y = F.silu(x.cpu())
    (grad,) = torch.autograd.grad(y, x, y.detach(), retain_graph=True)
    torch.autograd.backward([y], [y.detach()])
    plain = x.detach().dense().requires_grad_()
    z = F.silu(plain)
    (want,) = torch.autograd.grad(z, plain, z.detach())
    assert isinstance(y, BlockedTensor)
    torch.testing.assert_close(grad.dense(), want)
    torch.testing.assert_close(x.grad.dense(), want)


def test_autograd_sees_what_is_written_in_place():
    x = to_blocked(torch.randn(SHAPE, requires_grad=True))
    y = F.silu(x * 1)
    z = x * 1
    w = F.silu(z)
    z.relu_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        w.sum().backward()
    y.sum().backward()


def test_aliases_share_what_is_written():
    x = to_blocked(torch.randn(SHAPE))
    alias = x.detach()
    alias.mul_(2).add_(x)
    assert torch.equal(alias.dense(), x.dense())
    copied = x.clone()
    x.zero_()
    assert not x.dense().any()
    assert copied.dense().any()


def test_the_backward_callback_gets_ordinary_tensors():
    layer, x = conv(), torch.randn(SHAPE, dtype=torch.float64)
    seen = []
    layer.on_backward = lambda input, grad: seen.append(layer.dense_weight_grad(input, grad))
    run(lambda x: F.relu(layer(x)), x, to_blocked)
    torch.testing.assert_close(seen[0].reshape(-1)[layer.indices.long()].unsqueeze(1), layer.weight.grad)


def test_nothing_is_kept_without_need():
    """What a batch norm read goes away with its last user, though relu's cell could make use of it."""
    layer, normal = conv(), norm().eval()
    with torch.no_grad():
        y = layer(to_blocked(torch.randn(SHAPE, dtype=torch.float64)))
        read = weakref.ref(y.deferred.data())
        z = F.relu(normal(y))
        del y
        assert read() is not None
        z.deferred.data()
        gc.collect()
        assert read() is None


# -- everywhere else


def test_it_looks_like_the_ordinary_tensor():
    x = torch.randn(SHAPE)
    blocked = to_blocked(x)
    assert isinstance(blocked, torch.Tensor)
    assert (blocked.shape, blocked.dtype, blocked.device) == (x.shape, x.dtype, x.device)
    assert (blocked.dim(), blocked.numel(), len(blocked), blocked.stride()) == (4, x.numel(), 5, x.stride())
    assert blocked.is_contiguous()
    assert not blocked.requires_grad
    assert torch.equal(blocked.dense(), x)
    assert torch.equal(blocked, x)
    assert repr(blocked) == repr(x)
    assert f"{blocked.sum():.3f}" == f"{x.sum():.3f}"
    assert np.array_equal(blocked.numpy(), x.numpy())
    assert np.array_equal(np.asarray(blocked), x.numpy())
    assert blocked[0, 0, 0].tolist() == x[0, 0, 0].tolist()
    assert [row.shape for row in blocked] == [row.shape for row in x]
    assert float(blocked.abs().max()) == float(x.abs().max())
    assert bool((blocked > 0).any())


def test_it_travels_as_the_ordinary_tensor():
    x = torch.randn(SHAPE)
    blocked, buffer = to_blocked(x), io.BytesIO()
    torch.save({"features": blocked}, buffer)
    buffer.seek(0)
    for other in (torch.load(buffer)["features"], pickle.loads(pickle.dumps(blocked)), copy.deepcopy(blocked)):
        assert torch.equal(other, x)
        assert type(other) is torch.Tensor


def test_assignment_by_index_is_differentiable():
    def assign(x):
        y = x * 1
        y[:, 0] = 0
        y[:, 1:3] *= y[:, 3:] * 2
        return y

    x = torch.randn(SHAPE, dtype=torch.float64)
    want, got = run(assign, x, lambda x: x), run(assign, x, to_blocked)
    torch.testing.assert_close(got[:2], want[:2])


def test_results_can_be_written_into_it():
    x = torch.randn(SHAPE)
    target = to_blocked(torch.zeros(SHAPE))
    for write in (torch.exp, torch.sigmoid, lambda x, out: torch.add(x, 1, out=out)):
        assert write(x, out=target) is target
        torch.testing.assert_close(target.dense(), write(x, out=torch.empty(SHAPE)))
    target, other = to_blocked(x), x.clone()
    torch._foreach_mul_([target, other], 2)
    assert torch.equal(target.dense(), other)


def test_a_view_that_was_written_to_is_noticed():
    x = to_blocked(torch.randn(SHAPE))
    x.flatten(1).mul(2)
    F.relu(x)
    view = x.flatten(1)
    view.mul_(2)
    with pytest.raises(RuntimeError, match=r"x\.dense"):
        F.relu(x)


def test_a_view_that_would_show_what_is_written_is_noticed():
    x = to_blocked(torch.randn(SHAPE))
    view = x.flatten(1)
    for write in (x.relu_, lambda: x.mul_(2), lambda: x.copy_(torch.zeros(SHAPE)), lambda: x.__setitem__(0, 1.0)):
        with pytest.raises(RuntimeError, match=r"\(5, 4, 6, 8\).*x\.dense"):
            write()
    torch.testing.assert_close(view, x.dense().flatten(1))
    del view
    x.zero_()
    assert not x.dense().any()


def test_copies_live_no_longer_than_their_views():
    x = to_blocked(torch.randn(SHAPE))
    copies = [weakref.ref(x[0]._base), weakref.ref(x.flatten(1)._base)]
    gc.collect()
    assert [copy() for copy in copies] == [None, None]


def test_what_cannot_be_is_refused():
    x = to_blocked(torch.randn(SHAPE))
    with pytest.raises(RuntimeError, match=r"\.dense\(\)"):
        x.unsqueeze_(0)
    with pytest.raises(RuntimeError, match=r"\.dense\(\)"):
        x.data_ptr()
    with pytest.raises(RuntimeError, match="pad should be"):
        F.max_pool2d(x, 2, padding=2)
    with pytest.raises(TypeError, match="float16"):
        to_blocked(torch.zeros(SHAPE, dtype=torch.float16))
