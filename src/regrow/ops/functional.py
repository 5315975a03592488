"""The operators as functions: plans, sparse linear, sparse convolution of ordinary tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._autograd import Arguments, SparseConv2dNCHW, linear
from ._dense import DenseProduct
from ._layout import Shape, lanes
from ._native import isa
from .reference import conv2d_backward

_ops = torch.ops.regrow


def linear_plan(indices: Tensor, out_features: int, in_features: int, dtype: torch.dtype) -> Tensor:
    """Check the indices of a linear layer and prepare its kernels.

    Args:
        indices: (active,) int32 or int64, ascending, unique, flat positions in (out_features, in_features).
        dtype: that of the values to come, one of `regrow.ops.DTYPES`.

    Returns:
        An opaque int64 tensor of one element that owns the plan. Valid in this process only; make a new one
        whenever the active set changes.

    Raises:
        RuntimeError: bad indices; says which, where, and what is wanted.
    """
    return conv2d_plan(indices, (out_features, in_features, 1, 1), (1, 1), (0, 0), (1, 1), (1, 1), dtype)


def conv2d_plan(
    indices: Tensor,
    weight_shape: Shape,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    image: Shape,
    dtype: torch.dtype,
) -> Tensor:
    """Check the indices of a convolution and prepare its kernels for images of one size.

    Args:
        indices: (active,) int32 or int64, ascending, unique, flat positions in `weight_shape`.
        weight_shape: (O, I, kH, kW).
        stride: (h, w).
        padding: (h, w).
        dilation: (h, w).
        image: (H, W) of the input.
        dtype: that of the values to come, one of `regrow.ops.DTYPES`.

    Returns, raises: as `linear_plan`.
    """
    lanes(dtype)  # raises for what has no kernels
    lists = [list(sizes) for sizes in (weight_shape, stride, padding, dilation, image)]
    return _ops.make_plan.default(indices, *lists, dtype)


def pixel_plan(
    indices: Tensor, weight_shape: Shape, stride: Shape, padding: Shape, dilation: Shape, image: Shape
) -> Tensor:
    """Check the indices of a convolution and prepare the kernels for few images of one size.

    Args:
        indices: as `conv2d_plan`.
        weight_shape: as `conv2d_plan`.
        stride: (h, w).
        padding: (h, w).
        dilation: (h, w).
        image: (H, W) of the input.

    Returns, raises: as `linear_plan`; for any dtype.
    """
    lists = [list(sizes) for sizes in (weight_shape, stride, padding, dilation, image)]
    return _ops.make_pixel_plan.default(indices, *lists)


def plan_bytes(plan: Tensor) -> int:
    """Memory in bytes of a plan's index arrays."""
    return _ops.plan_bytes.default(plan)


def sparse_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, arguments: Arguments, observer: Any = None
) -> Tensor:
    """`input @ W.T + bias`, differentiable any number of times.

    Args:
        input: (batch, in_features), the dtype of the plan.
        weight: (active, 1) values in the order of `indices`.
        bias: (out_features,) or None.
        arguments: (indices, plan, out_features): the active set, and what `linear_plan` made of it.
        observer: None, or an object whose `on_backward`, when not None, is called with (input, grad_output): each
            pair whose product is a part of the gradient of all positions, if the weight wants a gradient.

    Returns:
        (batch, out_features).
    """
    return linear(input, weight, bias, arguments, observer)


def conv2d_arguments(
    indices: Tensor, plan: Tensor, shape: Shape, dtype: torch.dtype, geometry: Sequence[Shape]
) -> Arguments:
    """Returns what the operators of a convolution take after the bias, for inputs of one (N, I, H, W) shape.

    Args:
        indices: the active set.
        plan: result of `conv2d_plan` for this image size and dtype.
        geometry: weight_shape, stride, padding, dilation.
    """
    return indices, plan, list(shape), lanes(dtype), *(list(sizes) for sizes in geometry)


def sparse_conv2d_nchw(
    input: Tensor, weight: Tensor, bias: Tensor | None, arguments: Arguments, out_shape: Shape, observer: Any = None
) -> Tensor:
    """Convolution of an ordinary (N, C, H, W) tensor, differentiable; contiguous (N, O, H', W').

    Args:
        input: has the shape and dtype in `arguments`, any strides.
        weight: as in `sparse_linear`.
        bias: as in `sparse_linear`.
        observer: as in `sparse_linear`.
        arguments: result of `conv2d_arguments`.
        out_shape: (N, O, H', W'), as `conv_output_shape` has it.
    """
    output, _ = SparseConv2dNCHW.apply(input, weight, bias, arguments, out_shape, observer)
    return output


def sparse_conv2d_pixels(input: Tensor, weight: Tensor, bias: Tensor | None, arguments: Arguments) -> Tensor:
    """Convolution of few images, (N, C, H, W) in and out, without a derivative. One image costs an eighth of eight.

    Args:
        input: of the shape that the plan was made for, any strides.
        weight: as `sparse_linear`, without a graph.
        bias: (out_channels,) or None.
        arguments: (indices, what `pixel_plan` made of them, weight_shape, stride, padding, dilation).
    """
    with torch._C._AutoDispatchBelowAutograd():
        return _ops.sparse_conv2d_pixels.default(input.contiguous(), weight, bias, *arguments)


def dense_product(
    input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Arguments, observer: Any = None
) -> Tensor:
    """F.linear or F.conv2d, in the input's dtype under autocast too, for layers that are nearly dense.

    Args:
        input: (batch, in_features), or (N, I, H, W).
        weight: dense, (out_features, in_features) or (O, I, kH, kW).
        bias: (out_features,), (O,) or None.
        geometry: () of a linear product, (stride, padding, dilation) of a convolution.
        observer: as in `sparse_linear`.
    """
    return DenseProduct.apply(input, weight, bias, geometry, observer)


def conv2d_weight_grad(
    input: Tensor, grad_output: Tensor, weight_shape: Shape, stride: Shape, padding: Shape, dilation: Shape
) -> Tensor:
    """Gradient of every weight of a convolution, (O, I, kH, kW), by torch's own operator."""
    like = input.new_empty(1).expand(*weight_shape)  # only its shape is read
    grad = conv2d_backward(grad_output, input, like, stride, padding, dilation, (False, True, False))[1]
    assert grad is not None
    return grad


_TAKEN_TOGETHER = 2**14
"""Positions whose vectors are gathered at a time."""


def linear_weight_grad_at(input: Tensor, grad_output: Tensor, positions: Tensor) -> Tensor:
    """Gradient of some weights of a linear layer, without that of the others: (positions,).

    Args:
        input: (batch, in_features).
        grad_output: (batch, out_features).
        positions: (k,) int64, ascending and unique, flat in (out_features, in_features).
    """
    if not positions.numel():
        return input.new_empty(0)
    width = input.size(1)
    if input.device.type == "cpu" and isa() != "reference":
        plan = linear_plan(positions, grad_output.size(1), width, input.dtype)
        weight = input.new_empty(positions.numel(), 1)  # only its shape is read
        contiguous = grad_output.contiguous(), input if input.stride(-1) == 1 else input.contiguous()
        return _ops.sparse_linear_backward.default(*contiguous, weight, positions, plan, False, True, False)[1].view(-1)
    left, right = grad_output.t().contiguous(), input.t().contiguous()
    parts = [(left[some // width] * right[some % width]).sum(1) for some in positions.split(_TAKEN_TOGETHER)]
    return torch.cat(parts)


def conv2d_weight_grad_at(
    input: Tensor, grad_output: Tensor, positions: Tensor, geometry: tuple[Shape, Shape, Shape, Shape]
) -> Tensor:
    """Gradient of some weights of a convolution, without that of the others: (positions,).

    Args:
        input: (N, I, H, W).
        grad_output: (N, O, H', W').
        positions: (k,) int64, ascending and unique, flat in the weight's shape.
        geometry: weight_shape, stride, padding, dilation.
    """
    if not positions.numel():
        return input.new_empty(0)
    plan = conv2d_plan(positions, *geometry, input.shape[2:], input.dtype)
    arguments = conv2d_arguments(positions, plan, input.shape, input.dtype, geometry)
    width = lanes(input.dtype)
    weight = input.new_empty(positions.numel(), 1)  # only its shape is read
    pair = (_ops.to_blocked.default(tensor.contiguous(), width) for tensor in (grad_output, input))
    return _ops.sparse_conv2d_backward.default(*pair, weight, *arguments, False, True, False)[1].view(-1)
