"""Operators of the forward pass on blocked data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regrow.ops import _windows, lanes
from regrow.ops._layout import channel_blocks, grid
from regrow.ops._windows import Windows

from .deferred import ChannelAffine, DeferredValue, Noise, Zeros
from .maxima import MaximaIndices
from .tensor import HANDLERS, BlockedTensor, blocked, blocked_data, blocked_deferred, like

_ops = torch.ops.regrow
_aten = torch.ops.aten


def same_kind(a: Any, b: Any) -> bool:
    """Two activations of one shape and dtype: their blocked data can be met element by element."""
    both = isinstance(a, Tensor) and isinstance(b, Tensor)
    return both and a.shape == b.shape and a.dtype == b.dtype


def _put(target: BlockedTensor, content) -> BlockedTensor:
    """Returns what an in-place operator does."""
    target.deferred.put(content)
    return target


# -- normalisation and activation


def _native_batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps):
    others = (weight, bias, running_mean, running_var)
    if not isinstance(input, BlockedTensor) or any(t is not None and t.dtype != input.dtype for t in others):
        return NotImplemented
    x = input.deferred.data()
    scale, shift, mean, invstd = _ops.blocked_norm.default(
        x, *others, training, momentum, eps, input.deferred.shape, lanes(x.dtype)
    )
    affine = ChannelAffine(x, scale, mean, shift)
    return like(input, affine), *((mean, invstd) if training else (x.new_empty(0), x.new_empty(0)))


def _relu(self):
    return like(self, self.deferred.rectified())


def _relu_(self):
    return _put(self, self.deferred.rectified())


def _keeps_zero(op: Callable) -> Callable:
    """An operator of one activation and numbers that keeps zeros zero, run on the blocked data."""

    def run(self, *args, **kwargs):
        if not isinstance(self, BlockedTensor) or any(isinstance(a, Tensor) for a in (*args, *kwargs.values())):
            return NotImplemented
        return like(self, op(self.deferred.data(), *args, **kwargs))

    return run


def _in_place(handler: Callable) -> Callable:
    """The in-place form of a handler: its result goes into the tensor."""

    def run(self, *args, **kwargs):
        result = handler(self, *args, **kwargs) if isinstance(self, BlockedTensor) else NotImplemented
        if result is NotImplemented or not same_kind(self, result):
            return NotImplemented
        self.deferred.take(result.deferred)
        return self

    return run


# -- sums and products


def _add(self, other, *, alpha=1):
    if not same_kind(self, other):
        return NotImplemented
    a, b = blocked_deferred(self, "add"), blocked_deferred(other, "add")
    if alpha != 1:
        return like(self, torch.add(a.data(), b.data(), alpha=alpha))
    if not isinstance(a.pending, ChannelAffine):
        a, b = b, a
    return like(self, a.summand()._replace(residual=b.data()))


def _sub(self, other, *, alpha=1):
    if not same_kind(self, other):
        return NotImplemented
    return like(self, torch.sub(blocked_data(self, "sub"), blocked_data(other, "sub"), alpha=alpha))


def _mul(self, other):
    if same_kind(self, other):
        a, b = blocked_deferred(self, "mul"), blocked_deferred(other, "mul")
        if isinstance(b.pending, Noise):
            return like(self, b.pending.drop(a.affine(), a.shape))
        return like(self, a.data() * b.data())
    if not isinstance(self, BlockedTensor):
        self, other = other, self
    if isinstance(other, Tensor):
        return _mul_channels(self, other)
    return like(self, self.deferred.data() * other)


def _mul_channels(self, other):
    """One factor for each image and channel: (N, C, 1, 1)."""
    if other.dtype != self.dtype or other.shape != (*self.shape[:2], 1, 1):
        return NotImplemented
    shape, width = self.deferred.shape, lanes(self.dtype)
    factor = grid(blocked_data(other, "mul"), list(other.shape), width)
    result = torch.zeros_like(self.deferred.data())
    torch.mul(grid(self.deferred.data(), shape, width), factor, out=grid(result, shape, width))
    return like(self, result)


# -- pools


def _pair(value) -> tuple[int, int]:
    return (value[0], value[-1])


def sliding(self, kernel, stride, padding, *options) -> Windows | None:
    """Windows of an aten pool, whose arguments are lists of one or two numbers."""
    kernel = _pair(kernel)
    return _windows.sliding(
        tuple(self.shape[2:]), kernel, _pair(stride) if stride else kernel, _pair(padding), *options
    )


def _pooled(self, windows: Windows, pool: Callable, *arguments) -> BlockedTensor:
    table, out = windows
    data = pool(*arguments, table, out, self.deferred.shape, lanes(self.dtype))
    return blocked((*self.shape[:2], *out), data, self.dtype)


def _max_pooled(self, windows: Windows | None, pool: Callable, *arguments):
    if windows is None:
        return NotImplemented
    affine = self.deferred.affine()
    y = _pooled(self, windows, _ops.blocked_max_pool.default, affine.x, *affine.terms, affine.relu)
    return y, MaximaIndices(y.shape, pool, affine, self.deferred.shape, arguments)


def _max_pool2d(self, kernel, stride=(), padding=(0, 0), dilation=(1, 1), ceil_mode=False):
    windows = sliding(self, kernel, stride, padding, _pair(dilation), ceil_mode)
    pool = _aten.max_pool2d_with_indices.default
    return _max_pooled(self, windows, pool, kernel, stride, padding, dilation, ceil_mode)


def _adaptive_max_pool2d(self, size):
    windows = _windows.adaptive(tuple(self.shape[2:]), tuple(size))
    return _max_pooled(self, windows, _aten.adaptive_max_pool2d.default, size)


def avg_windows(self, kernel, stride=(), padding=(0, 0), ceil_mode=False, count_include_pad=True, divisor=None):
    """Windows of an aten avg_pool2d."""
    return sliding(self, kernel, stride, padding, (1, 1), ceil_mode, count_include_pad, divisor)


def _averaged(self, windows: Windows | None):
    return (
        NotImplemented
        if windows is None
        else _pooled(self, windows, _ops.blocked_avg_pool.default, self.deferred.data())
    )


def _avg_pool2d(self, *arguments, **options):
    return _averaged(self, avg_windows(self, *arguments, **options))


def _adaptive_avg_pool2d(self, size):
    return _averaged(self, _windows.adaptive(tuple(self.shape[2:]), tuple(size)))


def _mean_dim(self, dim, keepdim=False, *, dtype=None):
    if dtype is not None or not keepdim or sorted(d % 4 for d in dim or ()) != [2, 3]:
        return NotImplemented
    return _adaptive_avg_pool2d(self, (1, 1))


def _sum_dim(self, dim, keepdim=False, *, dtype=None):
    if dtype is not None or not keepdim or sorted(d % 4 for d in dim or ()) != [2, 3]:
        return NotImplemented
    image = tuple(self.shape[2:])
    return _averaged(self, _windows.sliding(image, image, image, (0, 0), divisor=1))


# -- channels


def _cat(tensors, dim=0):
    first = tensors[0]
    if dim % 4 != 1 or not all(isinstance(t, Tensor) and t.dim() == 4 and t.dtype == first.dtype for t in tensors):
        return NotImplemented
    if any((t.shape[0], *t.shape[2:]) != (first.shape[0], *first.shape[2:]) for t in tensors):
        return NotImplemented
    shape, width = list(first.shape), lanes(first.dtype)
    shape[1] = sum(t.shape[1] for t in tensors)
    parts = [channel_blocks(blocked_data(t, "cat"), list(t.shape), width) for t in tensors]
    result = Zeros(first.dtype).compute(shape)
    torch.cat(parts, 1, out=channel_blocks(result, shape, width))
    return blocked(shape, result, first.dtype)


# -- copies


def _keeps_layout(self, memory_format=None, pin_memory=None, **options) -> bool:
    return not pin_memory and all(
        value is None or value == getattr(self, name, None) for name, value in options.items()
    )


def _alias(self):
    return BlockedTensor(self.deferred)


def _view(self, size):
    """The same shape: autograd's own alias of what a function, or a module with backward hooks, passes through."""
    return _alias(self) if list(size) == self.deferred.shape else NotImplemented


def _clone(self, *, memory_format=None):
    deferred = DeferredValue(self.deferred.shape, Zeros(self.dtype), self.dtype)
    deferred.take(self.deferred)
    return BlockedTensor(deferred)


def _copy_(self, source, non_blocking=False):
    if not isinstance(self, BlockedTensor) or not same_kind(self, source):
        return NotImplemented
    self.deferred.take(blocked_deferred(source, "copy_"))
    return self


def _zeros_like(self, **options):
    return like(self, Zeros(self.dtype)) if _keeps_layout(self, **options) else NotImplemented


def _new_empty(self, size, **options):
    """Returns where dropout of channels puts its noise."""
    if len(size) != 4 or not _keeps_layout(self, **options):
        return torch.empty(size, **{"dtype": self.dtype, **options})
    return blocked(size, Zeros(self.dtype), self.dtype)


def _made_anew(op: Callable) -> Callable:
    """An operator that reads of its tensor no more than shape and dtype."""

    def run(self, *args, **options):
        return op(torch.empty(self.shape, dtype=self.dtype), *args, **options)

    return run


def _zero_(self):
    return _put(self, Zeros(self.dtype))


def _bernoulli_(self, p=0.5, *, generator=None):
    """Dropout's noise, from one number of torch's generator; not the bits that an ordinary tensor would get."""
    seed = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
    return _put(self, Noise(seed, 1 - p, 1.0, self.dtype))


def _dropout(self, p, train):
    """Seen whole in inference mode only."""
    if not train or p == 0:
        return _alias(self)
    if p == 1:
        return NotImplemented
    noise = _bernoulli_(like(self, Zeros(self.dtype)), 1 - p)
    return _mul(self, _div_number_(noise, 1 - p))


def _div_number_(self, other):
    """Returns what dropout does to its noise."""
    pending = self.deferred.pending
    if isinstance(pending, Noise) and not isinstance(other, Tensor):
        return _put(self, pending._replace(factor=pending.factor / other))
    return _in_place(_numbers[_aten.div.Scalar])(self, other)


_makers = (
    *(_aten.ones_like.default, _aten.full_like.default, _aten.rand_like.default, _aten.randn_like.default),
    *(_aten.new_zeros.default, _aten.new_ones.default, _aten.new_full.default),
)
_numbers = {op: _keeps_zero(op) for op in (_aten.div.Tensor, _aten.div.Scalar, _aten.mul.Scalar)}
_activations = (
    *(_aten.neg.default, _aten.leaky_relu.default, _aten.silu.default, _aten.gelu.default, _aten.elu.default),
    *(_aten.tanh.default, _aten.hardswish.default, _aten.mish.default, _aten.abs.default, _aten.square.default),
)
HANDLERS |= {
    **_numbers,
    **{op: _keeps_zero(op) for op in _activations},
    **{op: _made_anew(op) for op in _makers},
    _aten.new_empty.default: _new_empty,
    _aten.native_batch_norm.default: _native_batch_norm,
    _aten.relu.default: _relu,
    _aten.relu_.default: _relu_,
    _aten.leaky_relu_.default: _in_place(_keeps_zero(_aten.leaky_relu.default)),
    _aten.silu_.default: _in_place(_keeps_zero(_aten.silu.default)),
    _aten.add.Tensor: _add,
    _aten.add_.Tensor: _in_place(_add),
    _aten.sub.Tensor: _sub,
    _aten.sub_.Tensor: _in_place(_sub),
    _aten.mul.Tensor: _mul,
    _aten.mul_.Tensor: _in_place(_mul),
    _aten.mul_.Scalar: _in_place(_mul),
    _aten.div_.Tensor: _in_place(_numbers[_aten.div.Tensor]),
    _aten.div_.Scalar: _div_number_,
    _aten.max_pool2d_with_indices.default: _max_pool2d,
    _aten.adaptive_max_pool2d.default: _adaptive_max_pool2d,
    _aten.avg_pool2d.default: _avg_pool2d,
    _aten._adaptive_avg_pool2d.default: _adaptive_avg_pool2d,
    _aten.mean.dim: _mean_dim,
    _aten.sum.dim_IntList: _sum_dim,
    _aten.cat.default: _cat,
    _aten.detach.default: _alias,
    _aten.alias.default: _alias,
    _aten.view.default: _view,
    _aten.clone.default: _clone,
    _aten.copy_.default: _copy_,
    _aten.zeros_like.default: _zeros_like,
    _aten.empty_like.default: _zeros_like,
    _aten.zero_.default: _zero_,
    _aten.bernoulli_.float: _bernoulli_,
    _aten.dropout.default: _dropout,
}
