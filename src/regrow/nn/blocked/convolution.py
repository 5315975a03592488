"""Sparse convolution of a BlockedTensor."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.ops._autograd import CONV2D, gradients, plus, watched
from regrow.ops._gradients import is_ordinary

from .tensor import BlockedTensor, blocked, blocked_data, ordinary, to_blocked

_ops = torch.ops.regrow


class SparseConv2dBlocked(torch.autograd.Function):
    """A BlockedTensor comes in and out, forward and backward.

    The input's blocked data are a second output, which nobody uses: so they have a place in the graph, and second
    derivatives find the way to the input, which itself may be written to in place.
    """

    @staticmethod
    def forward(ctx, input, weight, bias, arguments, out_shape, observer):
        data = (
            input.deferred.data().detach()
        )  # one of its own to keep, since that of the deferred value may be kept by others
        ctx.save_for_backward(data, weight)
        ctx.arguments, ctx.observer = arguments, observer
        ctx.set_materialize_grads(False)
        with torch._C._AutoDispatchBelowAutograd():
            output = _ops.sparse_conv2d.default(data, weight, bias, *arguments)
        return blocked(out_shape, output, data.dtype), data

    @staticmethod
    def backward(ctx, grad, of_data):
        data, weight = ctx.saved_tensors
        _, _, shape, lanes, *_ = ctx.arguments
        want, observer = ctx.needs_input_grad[:3], ctx.observer
        dx = dw = db = None
        if grad is not None:
            if watched(observer) and want[1]:
                with torch.no_grad():
                    observer.on_backward(_ops.from_blocked.default(data, shape, lanes), ordinary(grad, "on_backward"))
            dy = _data(grad, "convolution backward")
            dx, dw, db = gradients(CONV2D, dy, data, weight, ctx.arguments, observer, want)
        dx = plus(dx, of_data) if want[0] else None
        return None if dx is None else _tensor(dx, shape), dw, db, None, None, None


def _data(tensor: Tensor, operation: str) -> Tensor:
    """The blocked data of a gradient, differentiable where the backward pass is."""
    return blocked_data(tensor, operation) if is_ordinary() else _Data.apply(to_blocked(tensor, operation))


def _tensor(data: Tensor, shape) -> BlockedTensor:
    """The BlockedTensor of blocked data, differentiable where the backward pass is."""
    return blocked(shape, data, data.dtype) if is_ordinary() else _Tensor.apply(data, shape)


class _Data(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: BlockedTensor) -> Tensor:
        ctx.shape = list(tensor.shape)
        return tensor.deferred.data().detach()

    @staticmethod
    def backward(ctx, grad):
        return _Tensor.apply(grad, ctx.shape)


class _Tensor(torch.autograd.Function):
    @staticmethod
    def forward(ctx, data: Tensor, shape) -> BlockedTensor:
        return blocked(shape, data.detach(), data.dtype)

    @staticmethod
    def backward(ctx, grad):
        return _Data.apply(to_blocked(grad, "convolution backward")), None
