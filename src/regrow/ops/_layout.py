"""The batch-blocked layout, seen from Python: how many elements it takes, how it maps to (N, C, H, W).

A blocked activation is a 1-D tensor that holds [blocks][C][margin + H][margin + W][lanes] and a zero tail;
lanes are images, and the margin (1, or 0 on a 1x1 plane) lies above and to the left of every plane.
`csrc/kernels/geometry.h` is the same in C++.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _native
from ._dtypes import DTYPE_NAMES, DTYPES

Shape = Sequence[int]


def lanes(dtype: torch.dtype) -> int:
    """Images side by side in a blocked activation of this dtype, for the instruction set in use.

    Args:
        dtype: one of `regrow.ops.DTYPES`.

    Example:
        >>> regrow.ops.lanes(torch.float32)
        8
    """
    if dtype not in DTYPES:
        raise TypeError(f"regrow: blocked activations are {DTYPE_NAMES}, got {dtype}; convert it first, e.g. .float()")
    return _native.lanes(dtype)


def _margin(shape: Shape) -> int:
    return 1 if shape[2] * shape[3] > 1 else 0


def blocked_size(shape: Shape, lanes: int) -> int:
    """Elements of the blocked form of a (N, C, H, W) activation, zero margin and tail included."""
    batch, channels, height, width = shape
    margin = _margin(shape)
    blocks = (batch + lanes - 1) // lanes
    row = margin + width
    return (blocks * channels * (margin + height) * row + margin * row + margin) * lanes


def grid(blocked: Tensor, shape: Shape, lanes: int) -> Tensor:
    """The [blocks, C, margin + H, margin + W, lanes] view of a blocked tensor, without its tail."""
    batch, channels, height, width = shape
    margin = _margin(shape)
    blocks = (batch + lanes - 1) // lanes
    sizes = (blocks, channels, margin + height, margin + width, lanes)
    count = blocks * channels * (margin + height) * (margin + width) * lanes
    return blocked[:count].view(sizes)


def planes(blocked: Tensor, shape: Shape, lanes: int) -> Tensor:
    """The [blocks, C, H, W, lanes] view of a blocked tensor, without margin and tail."""
    margin = _margin(shape)
    return grid(blocked, shape, lanes)[:, :, margin:, margin:]


def channel_blocks(blocked: Tensor, shape: Shape, lanes: int) -> Tensor:
    """The [blocks, C * plane] view, of which a range of columns is a range of channels."""
    return grid(blocked, shape, lanes).flatten(1)


def conv_output_shape(shape: Shape, weight_shape: Shape, stride: Shape, padding: Shape, dilation: Shape) -> list[int]:
    """(N, O, H', W') of a convolution."""
    sizes = [
        (shape[2 + d] + 2 * padding[d] - dilation[d] * (weight_shape[2 + d] - 1) - 1) // stride[d] + 1 for d in (0, 1)
    ]
    return [shape[0], weight_shape[0], *sizes]
