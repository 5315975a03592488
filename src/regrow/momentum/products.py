"""Finds where a product of two thin matrices is largest, without ever making it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from regrow import topology
from regrow.weights import among

__all__ = ["largest_of_product"]

_BLOCK = 1024
"""Rows and columns of the product that are made together: four megabytes of float32."""

_PENDING = 2**20
"""Candidates that may gather before they are sifted."""

_WORTH = 64
"""Entries looked at that cost as much as sifting one candidate; a higher threshold saves more of them."""


def largest_of_product(left: Tensor, right: Tensor, k: int, taken: Tensor) -> Tensor:
    """Positions of the k largest |left.t() @ right| outside `taken`, ties to the lower; flat, int64, ascending.

    Rows and columns are sorted by their norms, and blocks of the product are made in the order of their bound
    |M_ij| <= |a_i| |b_j| (Cauchy-Schwarz), until no bound reaches the k-th largest entry so far. So the result is
    exactly that of the whole product as its blocks round, in memory of the factors and of k; the time depends on how
    much the norms differ. The search by norms is that of LEMP (Teflioudi et al. 2015, "Fast retrieval of large entries
    in a matrix product", section 3).

    Args:
        left: (rank, rows), finite.
        right: (rank, columns), finite; rank may be 0, which makes a product of zeros.
        k: 0 to the number of positions outside `taken`.
        taken: ascending and unique.

    Example:
        >>> left, right = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 1.0]])  # 3, 1; -6, -2
        >>> largest_of_product(left, right, 2, taken=torch.tensor([2]))
        tensor([0, 3])
    """
    rows, columns = _by_norm(left), _by_norm(right)
    best = _Best(k, taken)
    slack = 1 + 2 * (left.size(0) + 1) * torch.finfo(left.dtype).eps  # by which a rounded entry may exceed its bound
    bounds = torch.outer(rows.bounds, columns.bounds) * slack
    order = bounds.flatten().argsort(descending=True)
    for block, bound in zip(order.tolist(), bounds.flatten()[order].tolist(), strict=True):
        if bound < best.threshold:
            break
        row, column = (place * _BLOCK for place in divmod(block, bounds.size(1)))
        a, b = (side.vectors[at : at + _BLOCK] for side, at in ((rows, row), (columns, column)))
        first_of_rows = rows.order[row : row + _BLOCK] * right.size(1)
        best.offer((a @ b.t()).abs_(), first_of_rows, columns.order[column : column + _BLOCK])
    return best.positions(left.size(1) * right.size(1))


class _Side(NamedTuple):
    """The vectors of one factor by falling norm, without those that are 0."""

    order: Tensor
    vectors: Tensor
    """(n, rank)"""
    bounds: Tensor
    """The largest norm of each block, float64."""


def _by_norm(factor: Tensor) -> _Side:
    norms = torch.linalg.vector_norm(factor, dim=0, dtype=torch.float64)
    order = norms.argsort(descending=True, stable=True)[: int(norms.count_nonzero())]
    return _Side(order, factor.t().index_select(0, order), norms[order][::_BLOCK])


class _Best:
    """The k largest scores so far, ties to the lower position, among candidates that are sifted now and then."""

    def __init__(self, k: int, taken: Tensor):
        self.k, self.taken = k, taken
        self.threshold = 0.0
        """The score to reach; 0 while fewer than k are known, when every score above 0 counts."""
        self._scores: list[Tensor] = []
        self._positions: list[Tensor] = []
        self._count = 0
        self._looked_at = 0

    def offer(self, scores: Tensor, rows: Tensor, columns: Tensor) -> None:
        """Adds a block of scores, whose element (r, c) has the position rows[r] + columns[c]."""
        reach = (scores >= self.threshold if self.threshold else scores > 0).view(-1).nonzero().squeeze(1)
        found, at = scores.view(-1)[reach], rows[reach // columns.numel()] + columns[reach % columns.numel()]
        free = ~among(at, self.taken)
        self._scores.append(found[free])
        self._positions.append(at[free])
        self._count += self._positions[-1].numel()
        self._looked_at += scores.numel()
        pending = self._count - self.k
        if pending > _PENDING or (pending > 0 and self._looked_at > _WORTH * self._count):
            self._sift()

    def _sift(self) -> None:
        positions, order = torch.cat(self._positions).sort()
        scores = torch.cat(self._scores)[order]
        chosen = topology.largest(scores, min(self.k, self._count))
        self._scores, self._positions, self._count = [scores[chosen]], [positions[chosen]], chosen.numel()
        self._looked_at = 0
        if 0 < self.k == self._count:
            self.threshold = float(self._scores[0].min())

    def positions(self, numel: int) -> Tensor:
        """The k best of `numel`, ascending; those of score 0 come last, the lower ones first."""
        if not self._positions:
            found = torch.zeros(0, dtype=torch.int64)
        else:
            self._sift()
            (found,) = self._positions
        lowest = torch.arange(min(numel, self.k + self.taken.numel()))
        zeros = lowest[~(among(lowest, self.taken) | among(lowest, found))]
        return torch.cat([found, zeros[: self.k - found.numel()]]).sort().values
