"""The gradient of all weights of a 3x3 convolution by Winograd's algorithm: a quarter of the multiplications.

F(3x3, 4x4) in the notation of Lavin & Gray 2016 (arXiv:1509.09308, section 4): a tile of 4x4 gradients meets 6x6
pixels, and their 3x3 correlation takes 36 multiplications instead of 144. Summed over tiles and images these are 36
matrix products. Planes of one or two rows or columns have tiles of 2x2, with 16 instead of 36. Results differ from
torch's operator by rounding alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["conv2d_weight_grad_winograd", "winograd_pays"]

KERNEL = 3
_POINTS = {2: (0, 1, -1), 4: (0, 1, -1, 2, -2)}
"""Where polynomials are evaluated, by tile; the last point is infinity."""

_LEAST = 40.0
"""From O * I / (O + I) on the products saved are worth the transforms; measured, see docs/window.md."""

_TOGETHER = 2**16
"""Tiles times channels that are transformed at a time, so that they stay in cache."""


def winograd_pays(weight_shape: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> bool:
    """Returns whether a convolution has a form for which Winograd's algorithm is made, and channels enough to gain.

    It depends on the layer alone, so that a run has the same bits wherever it is measured faster.

    Args:
        weight_shape: (O, I, kH, kW).
        stride: (h, w).
        dilation: (h, w).

    Example:
        >>> winograd_pays((128, 128, 3, 3), (1, 1), (1, 1)), winograd_pays((64, 64, 3, 3), (1, 1), (1, 1))
        (True, False)
    """
    outputs, inputs, *kernel = weight_shape
    fits = kernel == [KERNEL, KERNEL] and (*stride, *dilation) == (1, 1, 1, 1)
    return fits and outputs * inputs >= _LEAST * (outputs + inputs)


def conv2d_weight_grad_winograd(input: Tensor, grad_output: Tensor, padding: Sequence[int]) -> Tensor:
    """Gradient of every weight of a 3x3 convolution of stride 1 and dilation 1: (O, I, 3, 3), contiguous.

    Args:
        input: (N, I, H, W).
        grad_output: (N, O, H', W'), with H' = H + 2 padding - 2.
        padding: (h, w).

    Example:
        >>> x, dy = torch.randn(2, 8, 6, 6), torch.randn(2, 4, 6, 6)
        >>> conv2d_weight_grad_winograd(x, dy, (1, 1)).shape
        torch.Size([4, 8, 3, 3])
    """
    with torch.autocast(input.device.type, enabled=False):  # which would round the products to bfloat16
        return _weight_grad(input, grad_output, padding)


def _weight_grad(input: Tensor, grad_output: Tensor, padding: Sequence[int]) -> Tensor:
    images, inputs = input.shape[:2]
    outputs, *plane = grad_output.shape[1:]
    tile = 4 if min(plane) > 2 else 2
    tiles = [-(-side // tile) for side in plane]
    of_input, of_gradient, of_result = _transforms(tile, input.dtype)
    products = (input.new_empty if images else input.new_zeros)(of_input.size(0), outputs, inputs)
    together = max(1, _TOGETHER // max(1, tiles[0] * tiles[1] * max(outputs, inputs)))
    for begin in range(0, images, together):
        part = slice(begin, begin + together)
        x = of_input @ _tiles(input[part], tiles, tile, tile + KERNEL - 1, padding)
        dy = of_gradient @ _tiles(grad_output[part], tiles, tile, tile, (0, 0))
        products.baddbmm_(dy.view(len(dy), -1, outputs).mT, x.view(len(x), -1, inputs), beta=float(begin > 0))
    result = (of_result @ products.flatten(1)).view(KERNEL, KERNEL, outputs, inputs)
    return result.permute(2, 3, 0, 1).contiguous()


def _tiles(images: Tensor, count: Sequence[int], step: int, size: int, padding: Sequence[int]) -> Tensor:
    """Tiles of size x size pixels, `step` apart, behind so much padding: (size * size, N * tiles * channels)."""
    rows, columns = ((number - 1) * step + size for number in count)
    plane = images.new_zeros(images.size(0), rows, columns, images.size(1))
    top, left = padding
    height, width = images.shape[2:]
    plane[:, top : top + height, left : left + width].copy_(images.permute(0, 2, 3, 1))
    return plane.unfold(1, size, step).unfold(2, size, step).permute(4, 5, 0, 1, 2, 3).reshape(size * size, -1)


@lru_cache
def _transforms(tile: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The transforms of pixels, gradients and results, each for rows and columns at once.

    A product of polynomials of `tile` and 3 coefficients is known from its values at tile + 2 points (Toom and Cook);
    the correlation that is wanted is the transpose of that product, in one of its factors.
    """
    points = _POINTS[tile]
    size = tile + KERNEL - 1

    def values(coefficients: int) -> Tensor:
        powers = [[float(point) ** power for power in range(coefficients)] for point in points]
        return torch.tensor([*powers, [0.0] * (coefficients - 1) + [1.0]], dtype=torch.float64)

    matrices = values(size).inverse().t(), values(tile), values(KERNEL).t()
    of_input, of_gradient, of_result = (torch.kron(matrix, matrix).to(dtype) for matrix in matrices)
    return of_input, of_gradient, of_result
