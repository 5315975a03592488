"""Sparse convolution of a BlockedTensor."""

from __future__ import annotations

import torch

from regrow.nn.blocked.tensor import blocked, blocked_data, ordinary
from regrow.ops._autograd import once_differentiable

_ops = torch.ops.regrow


class SparseConv2dBlocked(torch.autograd.Function):
    """A BlockedTensor comes in and out, forward and backward. Differentiable once."""

    @staticmethod
    def forward(ctx, input, weight, bias, arguments, out_shape, observer):
        data = input.cell.data()
        ctx.save_for_backward(data, weight)
        ctx.arguments, ctx.observer = arguments, observer
        with torch._C._AutoDispatchBelowAutograd():
            output = _ops.sparse_conv2d.default(data, weight, bias, *arguments)
        return blocked(out_shape, output, data.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        data, weight = ctx.saved_tensors
        _, _, shape, lanes, *_ = ctx.arguments
        if ctx.observer is not None and ctx.observer.on_backward is not None:
            inputs = _ops.from_blocked.default(data, shape, lanes)
            ctx.observer.on_backward(inputs, ordinary(grad, "on_backward"))
        want = ctx.needs_input_grad[:3]
        with torch._C._AutoDispatchBelowAutograd():
            given = (blocked_data(grad, "convolution backward"), data, weight, *ctx.arguments)
            dx, dw, db = _ops.sparse_conv2d_backward.default(*given, *want)
        gradients = (
            blocked(shape, dx, dx.dtype) if want[0] else None,
            dw if want[1] else None,
            db if want[2] else None,
        )
        return *gradients, None, None, None
