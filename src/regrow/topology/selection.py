"""Which positions have the largest or the smallest scores, with a stated order among equal ones.

Ties are broken by position (or by layer order), so that the same scores give the same topology on every machine. A
threshold alone would not do: equal scores at the threshold would make the number of chosen positions depend on the
data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
import torch
from torch import Tensor

from .counts import redistribute

__all__ = ["counts_of_largest", "largest", "largest_by_row", "smallest"]

_BLOCK = 2**20
"""Scores that `largest` looks at together."""


def largest(scores: Tensor, k: int) -> Tensor:
    """Positions of the k largest scores, ties to the lower position; int64, shape (k,), ascending.

    Args:
        scores: shape (n,), no NaN. A score of -inf marks a position that must not be chosen while others are left.
        k: 0 to n.

    Example:
        >>> largest(torch.tensor([1.0, 3.0, 3.0, 2.0, 3.0]), 2)
        tensor([1, 2])
    """
    if not 0 <= k <= scores.numel():
        raise ValueError(f"cannot choose k={k} of {scores.numel()} positions")
    if k == 0:
        return torch.empty(0, dtype=torch.int64, device=scores.device)
    threshold = _kth_largest(scores, k)
    chosen = scores > threshold
    tied = (scores == threshold).nonzero().squeeze(1)
    chosen[tied[: k - int(chosen.count_nonzero())]] = True  # a sum would make int64 of every position
    return chosen.nonzero().squeeze(1)


def _kth_largest(scores: Tensor, k: int) -> Tensor:
    """The smallest of the k largest scores, k >= 1.

    Block by block: what does not exceed the k-th largest so far is not looked at, which halves the time; and no copy
    is larger than a block.
    """
    first, *blocks = scores.split(max(k, _BLOCK))
    best = _k_largest(first, k)
    for block in blocks:
        better = block[block > best.min()]
        best = _k_largest(torch.cat([best, better]), k)
    return best.min()


def _k_largest(scores: Tensor, k: int) -> Tensor:
    """The k largest scores, in no order. NumPy's partition is ten times as fast on a CPU as torch's topk."""
    if scores.device.type != "cpu":
        return torch.topk(scores, k, sorted=False).values
    scores = scores.detach()
    known = scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores
    first = scores.numel() - k
    return torch.from_numpy(numpy.partition(known.numpy(), first)[first:]).to(scores.dtype)


def smallest(scores: Tensor, k: int) -> Tensor:
    """Positions of the k smallest scores, ties to the lower position; int64, shape (k,), ascending.

    Example:
        >>> smallest(torch.tensor([1.0, 3.0, 1.0, 2.0, 1.0]), 2)
        tensor([0, 2])
    """
    return largest(-scores, k)


def largest_by_row(scores: Tensor, k: int) -> Tensor:
    """k positions, shared among the rows by the sum of their scores, in each row the largest; flat, ascending.

    Per-neuron growth: a row of a weight is a neuron. Shares are settled as in `share`.

    Args:
        scores: shape (rows, columns), >= 0 where a position may be chosen, -inf elsewhere.
        k: 0 to the number of positions that may be chosen.

    Example:
        >>> largest_by_row(torch.tensor([[3.0, 2.0, 1.0], [1.0, 0.5, 0.5]]), 4)
        tensor([0, 1, 2, 3])
    """
    eligible = torch.isfinite(scores)
    mass = torch.where(eligible, scores, 0).sum(1, dtype=torch.float64).tolist()
    if not any(mass):
        return largest(scores.reshape(-1), k)
    counts = redistribute(k, mass, eligible.sum(1).tolist())
    rows = [largest(scores[row], count) + row * scores.size(1) for row, count in enumerate(counts) if count]
    return torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64, device=scores.device)


def counts_of_largest(scores: Sequence[Tensor], total: int) -> list[int]:
    """Returns how many of the `total` largest scores of all layers lie in each of them, but at least one in each.

    Ties go to the earlier layer, and to the lower position.

    Args:
        scores: scores of each layer, shape (n_l,), n_l >= 1.
        total: from the number of layers to the number of scores.

    Example:
        >>> counts_of_largest([torch.tensor([5.0, 4.0, 3.0]), torch.tensor([1.0, 2.0])], 3)
        [2, 1]
    """
    sizes = [layer.numel() for layer in scores]
    if not len(sizes) <= total <= sum(sizes):
        raise ValueError(f"total={total} must be between {len(sizes)} layers and {sum(sizes)} scores")
    first_ones = [layer.double().index_fill(0, largest(layer, 1), math.inf) for layer in scores]
    chosen = largest(torch.cat(first_ones), total).cpu()
    layers = torch.bucketize(chosen, torch.tensor(sizes).cumsum(0), right=True)
    return torch.bincount(layers, minlength=len(sizes)).tolist()
