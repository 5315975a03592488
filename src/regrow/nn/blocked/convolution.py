"""Sparse convolution of a BlockedTensor."""

from __future__ import annotations

import torch

from regrow.nn.blocked.tensor import blocked, blocked_data, ordinary
from regrow.ops import lanes

_ops = torch.ops.regrow


class SparseConv2dBlocked(torch.autograd.Function):
    """A BlockedTensor comes in and out, forward and backward. Differentiable once."""

    @staticmethod
    def forward(ctx, input, weight, bias, indices, plan, out_shape, geometry, observer):
        data = input.cell.data()
        ctx.geometry = (list(input.shape), lanes(input.dtype), *geometry)
        ctx.observer = observer
        ctx.save_for_backward(data, weight, indices, plan)
        with torch._C._AutoDispatchBelowAutograd():
            output = _ops.sparse_conv2d.default(data, weight, bias, indices, plan, *ctx.geometry)
        return blocked(out_shape, output, input.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        data, weight, indices, plan = ctx.saved_tensors
        shape, width = ctx.geometry[:2]
        if ctx.observer is not None and ctx.observer.on_backward is not None:
            inputs = _ops.from_blocked.default(data, shape, width)
            ctx.observer.on_backward(inputs, ordinary(grad, "on_backward"))
        want = ctx.needs_input_grad[:3]
        arguments = (data, weight, indices, plan, *ctx.geometry)
        dx, dw, db = _ops.sparse_conv2d_backward.default(blocked_data(grad, "convolution backward"), *arguments, *want)
        gradients = (
            blocked(shape, dx, dx.dtype) if want[0] else None,
            dw if want[1] else None,
            db if want[2] else None,
        )
        return *gradients, None, None, None, None, None
