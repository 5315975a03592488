"""Derivatives of the operators.

Each is a `torch.autograd.Function`, which the modules call directly, and which is registered as the
operator's Autograd kernel, so that `torch.ops.regrow.*` differentiates as well.
(`torch.library.register_autograd` would be the ordinary way; measured, its forward costs twice as much: 38
against 21 microseconds on an op that does nothing.)

`arguments` is what an operator takes after its bias, in one tuple, since autograd looks at every argument of
every call: a layer makes it once for each topology and input shape. It holds the plan, and so keeps it alive
until backward. `observer` is None or a module whose `on_backward(input, grad_output)`, when set, sees the
ordinary tensors of each pair whose product is a part of the gradient of all positions, if the weight has one.

A backward pass that is itself differentiated goes through `_gradients.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import reference
from ._gradients import Arguments, Product, check_not_batched, gradients, is_ordinary, plus, transformed, watched
from ._layout import conv_output_shape
from ._schemas import library

_ops = torch.ops.regrow
_below = torch._C._AutoDispatchBelowAutograd  # the operators' own Autograd kernel is this file


class ToBlocked(torch.autograd.Function):
    """Backward of the conversion is the conversion back."""

    @staticmethod
    def forward(ctx, input: Tensor, lanes: int) -> Tensor:
        ctx.shape, ctx.lanes = list(input.shape), lanes
        with _below():
            return _ops.to_blocked.default(input, lanes)

    @staticmethod
    def backward(ctx, grad):
        return FromBlocked.apply(grad.contiguous(), ctx.shape, ctx.lanes), None


class FromBlocked(torch.autograd.Function):
    """Backward of the conversion is the conversion back."""

    @staticmethod
    def forward(ctx, blocked: Tensor, shape, lanes: int) -> Tensor:
        ctx.lanes = lanes
        with _below():
            return _ops.from_blocked.default(blocked, shape, lanes)

    @staticmethod
    def backward(ctx, grad):
        return ToBlocked.apply(grad, ctx.lanes), None, None


def _linear_gradients(grad, input, weight, arguments: Arguments, want):
    indices, plan, _ = arguments
    with _below():
        return _ops.sparse_linear_backward.default(grad.contiguous(), input, weight, indices, plan, *want)


def _linear_reference(grad, input, weight, indices, plan, out_features, *want):
    return reference.sparse_linear_backward(grad, input, weight, indices, plan, *want)


def _conv2d_gradients(grad, input, weight, arguments: Arguments, want):
    check_not_batched(grad, input)
    with _below():
        return _ops.sparse_conv2d_backward.default(grad, input, weight, *arguments, *want)


@torch.no_grad()
def _report_linear(observer, input, grad, arguments: Arguments) -> None:
    observer.on_backward(input, grad)


@torch.no_grad()
def report_conv2d(observer, input, grad, arguments: Arguments) -> None:
    """Show a pair of blocked tensors as ordinary ones."""
    _, _, shape, lanes, *geometry = arguments
    out_shape = conv_output_shape(shape, *geometry)
    observer.on_backward(
        _ops.from_blocked.default(input, shape, lanes), _ops.from_blocked.default(grad, out_shape, lanes)
    )


def _aligned(input: Tensor) -> Tensor:
    """The rows of an input, contiguous each."""
    return input if input.stride(-1) == 1 else input.contiguous()


class SparseLinear(torch.autograd.Function):
    """`input @ W.T + bias`, of an input with contiguous rows (`linear` sees to that)."""

    @staticmethod
    def forward(ctx, input, weight, bias, arguments: Arguments, observer):
        ctx.save_for_backward(input, weight)
        ctx.arguments, ctx.observer = arguments, observer
        with _below():
            return _ops.sparse_linear.default(input, weight, bias, *arguments)

    @staticmethod
    def backward(ctx, grad):
        input, weight = ctx.saved_tensors
        want, observer = ctx.needs_input_grad[:3], ctx.observer
        if watched(observer) and want[1]:
            _report_linear(observer, input, grad, ctx.arguments)
        return *gradients(LINEAR, grad, input, weight, ctx.arguments, observer, want), None, None


def linear(input: Tensor, weight: Tensor, bias: Tensor | None, arguments: Arguments, observer: Any) -> Tensor:
    """`input @ W.T + bias`, of any strides."""
    return SparseLinear.apply(_aligned(input), weight, bias, arguments, observer)


class SparseConv2d(torch.autograd.Function):
    """Convolution of blocked activations."""

    @staticmethod
    def forward(ctx, input, weight, bias, arguments: Arguments, observer):
        check_not_batched(input)
        ctx.save_for_backward(input, weight)
        ctx.arguments, ctx.observer = arguments, observer
        with _below():
            return _ops.sparse_conv2d.default(input, weight, bias, *arguments)

    @staticmethod
    def backward(ctx, grad):
        input, weight = ctx.saved_tensors
        want, observer = ctx.needs_input_grad[:3], ctx.observer
        if watched(observer) and want[1]:
            report_conv2d(observer, input, grad, ctx.arguments)
        return *gradients(CONV2D, grad.contiguous(), input, weight, ctx.arguments, observer, want), None, None


LINEAR = Product(linear, _linear_gradients, _linear_reference, _report_linear)
CONV2D = Product(SparseConv2d.apply, _conv2d_gradients, reference.sparse_conv2d_backward, report_conv2d)


class SparseConv2dNCHW(torch.autograd.Function):
    """Convolution of ordinary (N, C, H, W) tensors: to blocked, convolve, back. Keeps the blocked input.

    The blocked input is a second output, which nobody uses: so it has a place in the graph, and second derivatives find
    the way to the input without the input being kept as well.
    """

    @staticmethod
    def forward(ctx, input, weight, bias, arguments: Arguments, out_shape, observer):
        _, _, _, lanes, *_ = arguments
        ctx.arguments, ctx.observer = arguments, observer
        ctx.set_materialize_grads(False)
        with _below():
            blocked = _ops.to_blocked.default(input, lanes)
            ctx.save_for_backward(blocked, weight)
            output = _ops.sparse_conv2d.default(blocked, weight, bias, *arguments)
            return _ops.from_blocked.default(output, out_shape, lanes), blocked

    @staticmethod
    def backward(ctx, grad, of_blocked):
        blocked, weight = ctx.saved_tensors
        _, _, shape, lanes, *_ = ctx.arguments
        want, observer = ctx.needs_input_grad[:3], ctx.observer
        dx = dw = db = None
        into, out_of = conversions()
        if grad is not None:
            if watched(observer) and want[1]:
                with torch.no_grad():
                    observer.on_backward(_ops.from_blocked.default(blocked, shape, lanes), grad)
            dx, dw, db = gradients(CONV2D, into(grad, lanes), blocked, weight, ctx.arguments, observer, want)
        dx = plus(dx, of_blocked) if want[0] else None
        return None if dx is None else out_of(dx, shape, lanes), dw, db, None, None, None


def _into(input: Tensor, lanes: int) -> Tensor:
    with _below():
        return _ops.to_blocked.default(input, lanes)


def _out_of(blocked: Tensor, shape, lanes: int) -> Tensor:
    with _below():
        return _ops.from_blocked.default(blocked, shape, lanes)


def conversions() -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Into the blocked layout and out of it, in the running backward pass."""
    if is_ordinary():
        return _into, _out_of
    return (reference.to_blocked, reference.from_blocked) if transformed() else (ToBlocked.apply, FromBlocked.apply)


def _sparse_linear(input, weight, bias, *arguments):
    return linear(input, weight, bias, arguments, None)


def _sparse_conv2d(input, weight, bias, *arguments):
    return SparseConv2d.apply(input, weight, bias, arguments, None)


def _sparse_conv2d_pixels(input, weight, bias, *arguments):
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (input, weight, bias)):
        raise RuntimeError(
            "sparse_conv2d_pixels has no derivative; call it under torch.no_grad(), or regrow.ops.sparse_conv2d_nchw"
        )
    with _below():
        return _ops.sparse_conv2d_pixels.default(input, weight, bias, *arguments)


library.impl("sparse_conv2d_pixels", _sparse_conv2d_pixels, "Autograd")
library.impl("to_blocked", ToBlocked.apply, "Autograd")
library.impl("from_blocked", FromBlocked.apply, "Autograd")
library.impl("sparse_linear", _sparse_linear, "Autograd")
library.impl("sparse_conv2d", _sparse_conv2d, "Autograd")
