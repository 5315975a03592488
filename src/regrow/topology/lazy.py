"""Scores that are never made: of layers with too many positions for a tensor of all of them.

Up to `LARGEST_TENSOR` positions, scores are tensors and random positions come from a permutation of all; above, both
are had in memory in proportion to the active weights.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .random import draw_missing
from .sampling import sample_products
from .selection import largest

__all__ = ["LARGEST_TENSOR", "ComparableScores", "LazyScores", "ProductGradient", "RandomScores", "SampledScores"]

LARGEST_TENSOR = 2**26
"""Positions of a layer up to which tensors of its dense size are made: 256 MiB in float32."""


@runtime_checkable
class LazyScores(Protocol):
    """Grow scores that can only be asked where they are largest. Nothing can be computed with them."""

    def largest(self, k: int, taken: Tensor) -> Tensor:
        """The k positions of largest score outside `taken` (ascending), ties to the lower; int64, ascending."""

    def is_finite(self) -> bool:
        """Returns whether no score is NaN or infinite."""


@runtime_checkable
class ComparableScores(LazyScores, Protocol):
    """Lazy scores that can be compared with those of other layers."""

    def at(self, positions: Tensor) -> Tensor:
        """The scores at ascending flat positions, int64, shape of `positions`."""


class RandomScores:
    """A random order of all positions: the largest are a uniform draw.

    Args:
        numel: positions.
        generator: on the CPU; a draw moves it on.

    Example:
        >>> RandomScores(2**40, torch.Generator().manual_seed(0)).largest(3, torch.tensor([5])).shape
        torch.Size([3])
    """

    def __init__(self, numel: int, generator: torch.Generator):
        self.numel, self.generator = numel, generator

    def largest(self, k: int, taken: Tensor) -> Tensor:
        return draw_missing(k, self.numel, taken, self.generator)

    def is_finite(self) -> bool:
        return True


class ProductGradient(Protocol):
    """|g| of a weight that can be had at few positions, with what it is likely to be everywhere."""

    rows: Tensor
    """Mean |gradient| of each output, up to a factor, shape (rows,)."""
    columns: Tensor
    """Mean |input| of each column of the weight, up to a factor, shape (columns,)."""

    def at(self, positions: Tensor) -> Tensor:
        """|g| at ascending flat positions, int64, shape of `positions`."""

    def is_finite(self) -> bool:
        """Returns whether nothing that it is made of is NaN or infinite."""


class SampledScores:
    """|g| of a random sample of positions, and less than that of all others.

    Args:
        gradient: where |g| comes from.
        number: size of the sample, at least 1; more where more are to be chosen.
        generator: on the CPU; each choice moves it on.
        uniform: sample all positions alike, not in proportion to rows[i] * columns[j].
    """

    def __init__(self, gradient: ProductGradient, number: int, generator: torch.Generator, uniform: bool = False):
        self.gradient, self.number, self.generator = gradient, number, generator
        self.uniform = uniform

    def largest(self, k: int, taken: Tensor) -> Tensor:
        rows, columns = self.gradient.rows, self.gradient.columns
        numel = rows.numel() * columns.numel()
        number = min(max(self.number, k), numel - taken.numel())
        if self.uniform:
            sample = draw_missing(number, numel, taken.cpu(), self.generator)
        else:
            sample = sample_products(rows, columns, number, taken, self.generator)
        sample = sample.to(taken.device)
        return sample[largest(self.gradient.at(sample), k)]

    def at(self, positions: Tensor) -> Tensor:
        return self.gradient.at(positions)

    def is_finite(self) -> bool:
        return self.gradient.is_finite()
