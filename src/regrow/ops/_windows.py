"""The windows of a pool: which rows and columns of the input each row and column of the output looks at.

A tensor (rows + columns of the output, 4) of int64: begin, end (exclusive), step, extent, inside the plane. An
average divides by the product of the extents of its row and its column.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

Pair = tuple[int, int]
Windows = tuple[Tensor, Pair]  # the table, and (rows, columns) of the output


@lru_cache(maxsize=256)
def sliding(
    image: Pair,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
    count_padding: bool = False,
    divisor: int | None = None,
) -> Windows | None:
    """Windows of max_pool2d and avg_pool2d; None where torch would refuse, or where a window is empty.

    Args:
        image: (H, W) of the input.
        count_padding: as avg_pool2d's `count_include_pad`.
        divisor: as avg_pool2d's `divisor_override`.
    """
    if min(*kernel, *stride, *dilation) < 1 or any(p < 0 or 2 * p > k for p, k in zip(padding, kernel, strict=True)):
        return None
    sides = [_side(image[d], kernel[d], stride[d], padding[d], dilation[d], ceil_mode, count_padding) for d in (0, 1)]
    if divisor is not None:
        sides = [
            [(b, e, step, extent) for b, e, step, _ in side] for side, extent in zip(sides, (divisor, 1), strict=True)
        ]
    return _table(*sides)


@lru_cache(maxsize=256)
def adaptive(image: Pair, out: Pair) -> Windows | None:
    """Windows of adaptive pooling to `out` (H', W'), which may overlap."""
    if min(*image, *out) < 1:
        return None
    sides = []
    for size, count in zip(image, out, strict=True):
        edges = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        sides.append([(begin, end, 1, end - begin) for begin, end in edges])
    return _table(*sides)


def _side(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool, count_padding: bool):
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1  # the last window has to begin inside the plane or its left padding
    side = []
    for i in range(count):
        begin = i * stride - padding
        last = min(begin + dilation * (kernel - 1) + 1, size + padding)
        inside = begin + -(min(begin, 0) // dilation) * dilation
        end = min(last, size)
        side.append((inside, end, dilation, last - begin if count_padding else end - inside))
    return side


def _table(rows, columns) -> Windows | None:
    if not rows or not columns or any(begin >= end for begin, end, _, _ in (*rows, *columns)):
        return None
    return torch.tensor([*rows, *columns], dtype=torch.int64), (len(rows), len(columns))
