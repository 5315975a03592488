"""Derivatives of the operators.

Each is a `torch.autograd.Function`, which the modules call directly, and which is registered as the
operator's Autograd kernel, so that `torch.ops.regrow.*` differentiates as well.
(`torch.library.register_autograd` would be the ordinary way; measured, its forward costs twice as much: 38
against 21 microseconds on an op that does nothing.)

`arguments` is what an operator takes after its bias, in one tuple, since autograd looks at every argument of
every call: a layer makes it once for each topology and input shape. It holds the plan, and so keeps it alive
until backward. `observer` is None or a module whose `on_backward(input, grad_output)`, when set, sees the
ordinary tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from regrow.ops._schemas import library

Arguments = tuple[Any, ...]  # indices, plan, then the operator's geometry as in its schema

_ops = torch.ops.regrow
_below = torch._C._AutoDispatchBelowAutograd  # the operators' own Autograd kernel is this file


def _wanted(gradients: tuple[Tensor, Tensor, Tensor], wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Operators return empty tensors for what was not asked; autograd wants None."""
    dx, dw, db = gradients
    return dx if wanted[0] else None, dw if wanted[1] else None, db if wanted[2] else None


def once_differentiable(backward: Callable) -> Callable:
    """As torch's, whose checks take microseconds, but only where a graph of the backward pass is asked for."""
    checked = torch.autograd.function.once_differentiable(backward)

    def run(ctx, grad):
        return checked(ctx, grad) if torch.is_grad_enabled() else backward(ctx, grad)

    return run


def _watched(observer: Any) -> bool:
    return observer is not None and observer.on_backward is not None


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


class SparseLinear(torch.autograd.Function):
    """`input @ W.T + bias`. Differentiable once."""

    @staticmethod
    def forward(ctx, input, weight, bias, arguments: Arguments, observer):
        if input.stride(-1) != 1:
            input = input.contiguous()
        ctx.save_for_backward(input, weight)
        ctx.arguments, ctx.observer = arguments, observer
        with _below():
            return _ops.sparse_linear.default(input, weight, bias, *arguments)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        input, weight = ctx.saved_tensors
        if _watched(ctx.observer):
            ctx.observer.on_backward(input, grad)
        want = ctx.needs_input_grad[:3]
        indices, plan, _ = ctx.arguments
        with _below():
            gradients = _ops.sparse_linear_backward.default(grad.contiguous(), input, weight, indices, plan, *want)
        return *_wanted(gradients, want), None, None


class SparseConv2d(torch.autograd.Function):
    """Convolution of blocked activations. Differentiable once."""

    @staticmethod
    def forward(ctx, input, weight, bias, arguments: Arguments):
        ctx.save_for_backward(input, weight)
        ctx.arguments = arguments
        with _below():
            return _ops.sparse_conv2d.default(input, weight, bias, *arguments)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        want = ctx.needs_input_grad[:3]
        arguments = (*ctx.saved_tensors, *ctx.arguments)
        with _below():
            gradients = _ops.sparse_conv2d_backward.default(grad.contiguous(), *arguments, *want)
        return *_wanted(gradients, want), None


class SparseConv2dNCHW(torch.autograd.Function):
    """Convolution of ordinary (N, C, H, W) tensors: to blocked, convolve, back. Keeps the blocked input."""

    @staticmethod
    def forward(ctx, input, weight, bias, arguments: Arguments, out_shape, observer):
        _, _, _, lanes, *_ = arguments
        ctx.arguments, ctx.observer = arguments, observer
        with _below():
            blocked = _ops.to_blocked.default(input, lanes)
            ctx.save_for_backward(blocked, weight)
            output = _ops.sparse_conv2d.default(blocked, weight, bias, *arguments)
            return _ops.from_blocked.default(output, out_shape, lanes)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        blocked, weight = ctx.saved_tensors
        _, _, shape, lanes, *_ = ctx.arguments
        if _watched(ctx.observer):
            ctx.observer.on_backward(_ops.from_blocked.default(blocked, shape, lanes), grad)
        want = ctx.needs_input_grad[:3]
        with _below():
            grad = _ops.to_blocked.default(grad, lanes)
            dx, dw, db = _ops.sparse_conv2d_backward.default(grad, blocked, weight, *ctx.arguments, *want)
            dx = _ops.from_blocked.default(dx, shape, lanes) if want[0] else dx
        return *_wanted((dx, dw, db), want), None, None, None


def _sparse_linear(input, weight, bias, *arguments):
    return SparseLinear.apply(input, weight, bias, arguments, None)


def _sparse_conv2d(input, weight, bias, *arguments):
    return SparseConv2d.apply(input, weight, bias, arguments)


library.impl("to_blocked", ToBlocked.apply, "Autograd")
library.impl("from_blocked", FromBlocked.apply, "Autograd")
library.impl("sparse_linear", _sparse_linear, "Autograd")
library.impl("sparse_conv2d", _sparse_conv2d, "Autograd")
