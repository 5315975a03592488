"""torch's dense operators as products whose observer sees each pair, in derivatives of any order."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from . import reference
from ._gradients import Arguments, Product, gradients, watched


def _linear_gradients(grad: Tensor, input: Tensor, weight: Tensor, want):
    dx = grad @ weight if want[0] else None
    dw = grad.t() @ input if want[1] else None
    return dx, dw, grad.sum(0) if want[2] else None


def _gradients(grad: Tensor, input: Tensor, weight: Tensor, arguments: Arguments, want):
    with torch.autocast("cpu", enabled=False):
        if arguments:
            stride, padding, dilation = arguments
            return reference.conv2d_backward(grad, input, weight, stride, padding, dilation, want)
        return _linear_gradients(grad, input, weight, want)


def _reference(grad: Tensor, input: Tensor, weight: Tensor, *others):
    return _gradients(grad, input, weight, others[:-3], others[-3:])


@torch.no_grad()
def _report(observer, input: Tensor, grad: Tensor, arguments: Arguments) -> None:
    observer.on_backward(input, grad)


class DenseProduct(torch.autograd.Function):
    """F.conv2d with `arguments` (stride, padding, dilation); without any, F.linear of (batch, in_features)."""

    @staticmethod
    def forward(ctx, input, weight, bias, arguments: Arguments, observer):
        ctx.save_for_backward(input, weight)
        ctx.arguments, ctx.observer = arguments, observer
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(input, weight, bias, *arguments) if arguments else F.linear(input, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        input, weight = ctx.saved_tensors
        want, observer = ctx.needs_input_grad[:3], ctx.observer
        if watched(observer) and want[1]:
            _report(observer, input, grad, ctx.arguments)
        return *gradients(DENSE, grad, input, weight, ctx.arguments, observer, want), None, None


DENSE = Product(DenseProduct.apply, _gradients, _reference, _report)
