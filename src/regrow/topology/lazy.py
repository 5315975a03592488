"""Scores that are never made: of layers with too many positions for a tensor of all of them.

Up to `LARGEST_TENSOR` positions, scores are tensors and random positions come from a permutation of all; above, both
are had in memory in proportion to the active weights.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .random import draw_missing

__all__ = ["LARGEST_TENSOR", "LazyScores", "RandomScores"]

LARGEST_TENSOR = 2**26
"""Positions of a layer up to which tensors of its dense size are made: 256 MiB in float32."""


@runtime_checkable
class LazyScores(Protocol):
    """Grow scores that can only be asked where they are largest. Nothing can be computed with them."""

    def largest(self, k: int, taken: Tensor) -> Tensor:
        """The k positions of largest score outside `taken` (ascending), ties to the lower; int64, ascending."""

    def is_finite(self) -> bool:
        """Returns whether no score is NaN or infinite."""


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
