"""A moment of a Linear layer that is kept as the factors of its gradients, so that nothing of dense size exists."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .products import largest_of_product

__all__ = ["FactoredMoment"]

_TAKEN_TOGETHER = 2**14
"""Positions whose vectors are gathered at a time."""


class FactoredMoment:
    """sum_j scale_j * left_j.t() @ right_j, with left_j (batch, out) and right_j (batch, in) of step j.

    It replaces a tensor in the rules of `moments`, and scores at an update (`lazy.LazyScores`).

    Args:
        shape: (out, in).

    Example:
        >>> moment = FactoredMoment((2, 3), torch.float32)
        >>> moment.fold([(torch.ones(1, 2), torch.tensor([[1.0, 2.0, 3.0]]))], decay=0.9, factor=2.0)
        >>> moment.take(torch.tensor([1, 5]))
        tensor([4., 6.])
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype):
        self.shape, self.dtype = tuple(shape), dtype
        self._parts: list[tuple[float, Tensor, Tensor]] = []

    @property
    def size(self) -> int:
        """Numbers that it keeps."""
        return sum(left.numel() + right.numel() for _, left, right in self._parts)

    def zero_(self) -> FactoredMoment:
        self._parts = []
        return self

    def fold(self, products: Sequence[tuple[Tensor, Tensor]], decay: float, factor: float) -> None:
        """Becomes decay * self + factor * (sum of left.t() @ right); keeps the factors, and scales none of them yet."""
        self._parts = [(decay * scale, left, right) for scale, left, right in self._parts]
        self._parts += [(factor, left, right) for left, right in products]

    def take(self, positions: Tensor) -> Tensor:
        """The entries at flat positions, shape of `positions`."""
        parts = [self._take(some) for some in positions.split(_TAKEN_TOGETHER)]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=self.dtype)

    def _take(self, positions: Tensor) -> Tensor:
        rows, columns = positions // self.shape[1], positions % self.shape[1]
        total = torch.zeros(positions.numel(), dtype=self.dtype)
        for scale, left, right in self._parts:
            total.add_((left[:, rows] * right[:, columns]).sum(0), alpha=scale)
        return total

    def largest(self, k: int, taken: Tensor) -> Tensor:
        """The k positions of largest magnitude outside `taken`, see `products.largest_of_product`."""
        left, right = self._factors()
        return largest_of_product(left, right, k, taken)

    def at(self, positions: Tensor) -> Tensor:
        """The magnitudes at flat positions, shape of `positions`."""
        return self.take(positions).abs()

    def is_finite(self) -> bool:
        """Returns whether no factor holds NaN or infinity (nor adds up to one)."""
        return all(math.isfinite(float(factor.sum())) for _, *pair in self._parts for factor in pair)

    def multiplied_out(self) -> Tensor:
        """The moment as a tensor."""
        left, right = self._factors()
        return left.t() @ right

    def _factors(self) -> tuple[Tensor, Tensor]:
        """(rank, out) and (rank, in), of all steps."""
        none = (torch.zeros(0, size, dtype=self.dtype) for size in self.shape)
        lefts = [left * scale for scale, left, _ in self._parts]
        rights = [right for *_, right in self._parts]
        left, right = (torch.cat([empty, *parts]) for empty, parts in zip(none, (lefts, rights), strict=True))
        return left, right

    def state_dict(self) -> dict[str, Any]:
        return {"factors": list(self._parts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._parts = [(scale, left.clone(), right.clone()) for scale, left, right in state["factors"]]
