"""Pure functions that turn scores into active sets: whom to prune, how to share, whom to grow.

Everything here is exact: counts are integers that add up, and ties are broken by position (or by layer order), so
that the same scores give the same topology on every machine. A threshold alone would not do: equal scores at the
threshold would make the number of chosen positions depend on the data.

Paper: Dettmers & Zettlemoyer 2019, "Sparse Networks from Scratch" (arXiv:1907.04840), section 3 and algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

__all__ = [
    "counts_of_largest",
    "largest",
    "largest_by_row",
    "prune_counts",
    "round_to_total",
    "share",
    "share_within_budget",
    "smallest",
]

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

    Block by block: topk holds 16 bytes for each element that it looks at, more than the layer itself; and what does
    not exceed the k-th largest so far is not looked at, which halves the time.
    """
    first, *blocks = scores.split(max(k, _BLOCK))
    best = torch.topk(first, k, sorted=False).values
    for block in blocks:
        better = block[block > best.min()]
        best = torch.topk(torch.cat([best, better]), k, sorted=False).values
    return best.min()


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
    counts = share(k, mass, eligible.sum(1).tolist())
    rows = [largest(scores[row], count) + row * scores.size(1) for row, count in enumerate(counts) if count]
    return torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64, device=scores.device)


def counts_of_largest(scores: Sequence[Tensor], total: int) -> list[int]:
    """How many of the `total` largest scores of all layers lie in each of them, but at least one in each.

    Ties go to the earlier layer, and to the lower position.

    Args:
        scores: of each layer, shape (n_l,), n_l >= 1.
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


def prune_counts(
    rate: float, active: Sequence[int], numel: Sequence[int], importance: Sequence[float] | None = None
) -> list[int]:
    """How many active weights each layer gives away: min(ceil(p_l * m_l), m_l - 1).

    p_l is the prune rate, but min(rate, sparsity of l) for a layer that is more than 80 % dense and more important
    than the average layer: a layer that wants to be dense is not torn open at every update.

    Args:
        rate: prune rate p, 0 to 1.
        active, numel: active weights m_l and positions n_l of each layer.
        importance: r_l, summing to 1; None switches the 80 % rule off.

    Example:
        >>> prune_counts(0.5, [10, 1, 9], [100, 10, 10], [0.2, 0.2, 0.6])
        [5, 0, 1]
    """
    counts = []
    for layer, (m, n) in enumerate(zip(active, numel, strict=True)):
        p = rate
        if importance is not None and m > 0.8 * n and importance[layer] > 1 / len(active):
            p = min(rate, 1 - m / n)
        counts.append(max(0, min(math.ceil(p * m), m - 1)))
    return counts


def share(total: int, importance: Sequence[float | Fraction], free: Sequence[int]) -> list[int]:
    """Shares `total` new weights among layers in proportion to their importance; the result sums to `total` exactly.

    A layer whose share exceeds its free positions is filled, and what is left over is divided equally among the layers
    that are not full, until nothing exceeds. Fractions are settled by largest remainder, ties by layer order.
    Computed in rational numbers, so nothing depends on rounding.

    Args:
        total: weights to hand out, 0 to sum(free).
        importance: r_l >= 0, not all 0; they need not be normalised.
        free: positions that layer l can still take.

    Example:
        >>> share(10, [0.7, 0.2, 0.1], [4, 10, 10])
        [4, 4, 2]
    """
    if total > sum(free):
        raise ValueError(f"cannot share {total} weights among layers with {sum(free)} free positions")
    if any(not math.isfinite(r) or r < 0 for r in importance) or not any(importance):
        raise ValueError(f"importance must be finite, >= 0 and not all 0, got {list(importance)}")
    weights = [Fraction(r) for r in importance]
    scale = Fraction(total) / sum(weights)
    quotas = [w * scale for w in weights]
    while excess := sum(q - f for q, f in zip(quotas, free, strict=True) if q > f):
        quotas = [min(q, Fraction(f)) for q, f in zip(quotas, free, strict=True)]
        open_layers = [layer for layer, q in enumerate(quotas) if q < free[layer]]
        for layer in open_layers:
            quotas[layer] += excess / len(open_layers)
    return round_to_total(quotas, total)


def round_to_total(quotas: Sequence[Fraction], total: int) -> list[int]:
    """Rounds quotas to integers that sum to `total`, by largest remainder, ties to the earlier entry.

    Args:
        quotas: non-negative and summing to `total` exactly.

    Example:
        >>> round_to_total([Fraction(3, 2), Fraction(3, 2), Fraction(2)], 5)
        [2, 1, 2]
    """
    counts = [math.floor(q) for q in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda layer: counts[layer] - quotas[layer])
    for layer in by_remainder[: total - sum(counts)]:
        counts[layer] += 1
    return counts


def share_within_budget(
    total: int,
    importance: Sequence[float],
    free: Sequence[int],
    kept: Sequence[int],
    cost: Sequence[float],
    budget: float,
) -> list[int]:
    """Shares as `share` does, but so that the FLOPs of all, sum of cost_l * (kept_l + share_l), stay within `budget`.

    Importance is tilted towards cheap layers, r_l * exp(-tilt * cost_l / max cost), with the smallest tilt (found by
    bisection) that meets the budget. Where no tilt does, the cheapest layers are filled first, which is the cheapest
    sharing there is, so a network above its budget comes down as fast as the prune rate allows.

    Args:
        total, importance, free: as for `share`.
        kept: active weights of each layer that survive the pruning.
        cost: FLOPs of one weight of each layer; budget: FLOPs of the whole network (same unit).

    Example:
        >>> share_within_budget(10, [0.9, 0.1], [10, 10], kept=[0, 0], cost=[10.0, 1.0], budget=55.0)
        [5, 5]
    """

    def flops(counts: Sequence[int]) -> float:
        return sum(c * (a + b) for c, a, b in zip(cost, kept, counts, strict=True))

    dearest = max(cost) or 1.0

    def tilted(tilt: float) -> list[int]:
        return share(total, [r * math.exp(-tilt * c / dearest) for r, c in zip(importance, cost, strict=True)], free)

    best = share(total, importance, free)
    if flops(best) <= budget:
        return best
    low, high = 0.0, 64.0
    best = tilted(high)
    if flops(best) > budget:
        return _cheapest_first(total, free, cost)
    for _ in range(24):
        middle = (low + high) / 2
        counts = tilted(middle)
        if flops(counts) <= budget:
            high, best = middle, counts
        else:
            low = middle
    return best


def _cheapest_first(total: int, free: Sequence[int], cost: Sequence[float]) -> list[int]:
    counts = [0] * len(free)
    for layer in sorted(range(len(free)), key=lambda layer: cost[layer]):
        counts[layer] = min(free[layer], total - sum(counts))
    return counts
