"""Operators of the backward pass on blocked data: what autograd calls for those in forward.py."""

from __future__ import annotations

import torch

from regrow.ops import _windows, lanes
from regrow.ops._layout import blocked_size, channel_blocks

from .deferred import ChannelAffine, Spread, Upstream
from .forward import avg_windows, same_kind, sliding
from .tensor import HANDLERS, blocked, blocked_data, blocked_deferred, like

_ops = torch.ops.regrow
_aten = torch.ops.aten


def _threshold_backward(grad, self, threshold):
    if threshold != 0 or not same_kind(grad, self):
        return NotImplemented
    deferred, back = blocked_deferred(self, "threshold_backward"), blocked_deferred(grad, "threshold_backward")
    upstream = back.pending
    if isinstance(upstream, Upstream) and upstream.pooled is deferred and not upstream.gated:
        return like(self, upstream._replace(affine=upstream.affine._replace(relu=True), gated=True))
    return like(self, Upstream(back.data(), deferred.affine(), gated=True))


def _max_pool_backward(grad, self, windows):
    if windows is None:
        return NotImplemented
    deferred = blocked_deferred(self, "max_pool2d backward")
    upstream = Upstream(blocked_data(grad, "max_pool2d backward"), deferred.affine(), False, windows, deferred)
    return like(self, upstream)


def _max_pool2d_backward(grad, self, kernel, stride, padding, dilation, ceil_mode, indices):
    windows = sliding(self, kernel, stride, padding, (dilation[0], dilation[-1]), ceil_mode)
    return _max_pool_backward(grad, self, windows)


def _adaptive_max_pool2d_backward(grad, self, indices):
    return _max_pool_backward(grad, self, _windows.adaptive(tuple(self.shape[2:]), tuple(grad.shape[2:])))


def _avg_pool_backward(grad, self, windows):
    return NotImplemented if windows is None else like(self, Spread(blocked_data(grad, "avg_pool2d backward"), windows))


def _avg_pool2d_backward(grad, self, *arguments):
    return _avg_pool_backward(grad, self, avg_windows(self, *arguments))


def _adaptive_avg_pool2d_backward(grad, self):
    return _avg_pool_backward(grad, self, _windows.adaptive(tuple(self.shape[2:]), tuple(grad.shape[2:])))


def _expand(self, size, *, implicit=False):
    """One number for each plane, spread over it; the divisor of its one window is taken out again."""
    if list(size[:2]) != list(self.shape[:2]) or self.shape[2:] != (1, 1):
        return NotImplemented
    windows = _windows.adaptive(tuple(size[2:]), (1, 1))
    if windows is None:
        return NotImplemented
    return blocked(size, Spread(self.deferred.data(), windows, float(size[2] * size[3])), self.dtype)


def _div_scalar(self, other):
    pending = self.deferred.pending
    if isinstance(pending, Spread):
        return like(self, pending._replace(factor=pending.factor / other))
    return like(self, self.deferred.data() / other)


def _slice(self, dim=0, start=None, end=None, step=1):
    """Some channels: the gradient of one part of a concatenation."""
    if dim % 4 != 1 or step != 1:
        return NotImplemented
    start, end, _ = slice(start, end).indices(self.shape[1])
    shape, width = [self.shape[0], end - start, *self.shape[2:]], lanes(self.dtype)
    result = self.deferred.data().new_zeros(blocked_size(shape, width))
    source = channel_blocks(self.deferred.data(), self.deferred.shape, width)
    plane = source.shape[1] // self.shape[1]
    channel_blocks(result, shape, width).copy_(source[:, start * plane : end * plane])
    return blocked(shape, result, self.dtype)


def _native_batch_norm_backward(
    grad, input, weight, running_mean, running_var, save_mean, save_invstd, training, eps, wanted
):
    if not same_kind(grad, input) or (weight is not None and weight.dtype != input.dtype):
        return NotImplemented
    x, back = blocked_data(input, "batch_norm backward"), blocked_deferred(grad, "batch_norm backward")
    mean, invstd = (save_mean, save_invstd) if training else (running_mean, torch.rsqrt(running_var + eps))
    upstream = back.pending
    if isinstance(upstream, Upstream) and upstream.affine.x is x and upstream.gated == upstream.affine.relu:
        affine, windows = upstream.affine, upstream.windows
        dy = upstream.grad
    else:
        affine, windows, dy = ChannelAffine(x), None, back.data()
    table, out = windows or (None, ())
    dx, dweight, dbias = _ops.blocked_norm_backward.default(
        *(dy, x, weight, mean, invstd, training, *affine.terms, affine.relu, table, out),
        *(list(input.shape), lanes(input.dtype), wanted[0]),
    )
    return (
        like(input, dx) if wanted[0] else None,
        dweight if wanted[1] else None,
        dbias if wanted[2] else None,
    )


def _elementwise_backward(op):
    """A derivative that is zero where the gradient is."""

    def run(grad, self, *args, **kwargs):
        if not same_kind(grad, self):
            return NotImplemented
        name = str(op)
        return like(self, op(blocked_data(grad, name), blocked_data(self, name), *args, **kwargs))

    return run


_derivatives = (
    *(_aten.leaky_relu_backward.default, _aten.silu_backward.default, _aten.gelu_backward.default),
    *(_aten.hardtanh_backward.default, _aten.hardswish_backward.default, _aten.mish_backward.default),
    *(_aten.tanh_backward.default,),
)
HANDLERS |= {
    **{op: _elementwise_backward(op) for op in _derivatives},
    _aten.threshold_backward.default: _threshold_backward,
    _aten.max_pool2d_with_indices_backward.default: _max_pool2d_backward,
    _aten.adaptive_max_pool2d_backward.default: _adaptive_max_pool2d_backward,
    _aten.avg_pool2d_backward.default: _avg_pool2d_backward,
    _aten._adaptive_avg_pool2d_backward.default: _adaptive_avg_pool2d_backward,
    _aten.expand.default: _expand,
    _aten.div.Scalar: _div_scalar,
    _aten.slice.Tensor: _slice,
    _aten.native_batch_norm_backward.default: _native_batch_norm_backward,
}
