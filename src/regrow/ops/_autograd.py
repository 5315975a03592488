"""Derivatives of the operators.

Each is a `torch.autograd.Function`, which the modules call directly, and which is registered as the
operator's Autograd kernel, so that `torch.ops.regrow.*` differentiates as well.
(`torch.library.register_autograd` would be the ordinary way; measured, its forward costs twice as much: 38
against 21 microseconds on an op that does nothing.)

`observer` is None or a module whose `on_backward(input, grad_output)`, when set, sees the ordinary tensors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regrow.ops._schemas import library

_ops = torch.ops.regrow
_below = torch._C._AutoDispatchBelowAutograd  # the operators' own Autograd kernel is this file


def _wanted(gradients: tuple[Tensor, Tensor, Tensor], wanted: tuple[bool, ...]) -> list[Tensor | None]:
    """Operators return empty tensors for what was not asked; autograd wants None."""
    return [gradient if want else None for gradient, want in zip(gradients, wanted, strict=True)]


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
    """`input @ W.T + bias`; `plan` is kept alive until backward. Differentiable once."""

    @staticmethod
    def forward(ctx, input, weight, bias, indices, plan, out_features, observer=None):
        if input.stride(-1) != 1:
            input = input.contiguous()
        ctx.save_for_backward(input, weight, indices, plan)
        ctx.observer = observer
        with _below():
            return _ops.sparse_linear.default(input, weight, bias, indices, plan, out_features)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        input, weight, indices, plan = ctx.saved_tensors
        if _watched(ctx.observer):
            ctx.observer.on_backward(input, grad)
        want = ctx.needs_input_grad[:3]
        gradients = _ops.sparse_linear_backward.default(grad.contiguous(), input, weight, indices, plan, *want)
        return *_wanted(gradients, want), None, None, None, None


class SparseConv2d(torch.autograd.Function):
    """Convolution of blocked activations; `plan` is kept alive until backward. Differentiable once."""

    @staticmethod
    def forward(ctx, input, weight, bias, indices, plan, *geometry):
        ctx.save_for_backward(input, weight, indices, plan)
        ctx.geometry = geometry
        with _below():
            return _ops.sparse_conv2d.default(input, weight, bias, indices, plan, *geometry)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        want = ctx.needs_input_grad[:3]
        gradients = _ops.sparse_conv2d_backward.default(grad.contiguous(), *ctx.saved_tensors, *ctx.geometry, *want)
        return *_wanted(gradients, want), None, None, *[None] * len(ctx.geometry)


class SparseConv2dNCHW(torch.autograd.Function):
    """Convolution of ordinary (N, C, H, W) tensors: to blocked, convolve, back. Keeps the blocked input."""

    @staticmethod
    def forward(ctx, input, weight, bias, indices, plan, lanes, out_shape, geometry, observer):
        ctx.geometry = (list(input.shape), lanes, *geometry)
        ctx.observer = observer
        with _below():
            blocked = _ops.to_blocked.default(input, lanes)
            ctx.save_for_backward(blocked, weight, indices, plan)
            output = _ops.sparse_conv2d.default(blocked, weight, bias, indices, plan, *ctx.geometry)
            return _ops.from_blocked.default(output, out_shape, lanes)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        blocked, weight, indices, plan = ctx.saved_tensors
        shape, lanes = ctx.geometry[:2]
        if _watched(ctx.observer):
            ctx.observer.on_backward(_ops.from_blocked.default(blocked, shape, lanes), grad)
        want = ctx.needs_input_grad[:3]
        grad = _ops.to_blocked.default(grad, lanes)
        dx, dw, db = _ops.sparse_conv2d_backward.default(grad, blocked, weight, indices, plan, *ctx.geometry, *want)
        dx = _ops.from_blocked.default(dx, shape, lanes) if want[0] else dx
        return *_wanted((dx, dw, db), want), None, None, None, None, None, None


library.impl("to_blocked", ToBlocked.apply, "Autograd")
library.impl("from_blocked", FromBlocked.apply, "Autograd")
library.impl("sparse_linear", SparseLinear.apply, "Autograd")
library.impl("sparse_conv2d", SparseConv2d.apply, "Autograd")
