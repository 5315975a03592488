"""Numbers of weights that layers prune and grow: integers that add up, whatever is divided.

Paper: Dettmers & Zettlemoyer 2019, "Sparse Networks from Scratch" (arXiv:1907.04840), section 3 and algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

__all__ = ["prune_counts", "redistribute", "redistribute_within_budget", "round_to_total"]


def prune_counts(
    rate: float, active: Sequence[int], numel: Sequence[int], importance: Sequence[float] | None = None
) -> list[int]:
    """Returns how many active weights each layer gives away: min(ceil(p_l * m_l), m_l - 1).

    p_l is the prune rate, but min(rate, sparsity of l) for a layer that is more than 80 % dense and more important
    than the average layer: a layer that wants to be dense is not torn open at every update.

    Args:
        rate: prune rate p, 0 to 1.
        active: active weights m_l of each layer.
        numel: positions n_l of each layer.
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


def redistribute(total: int, importance: Sequence[float | Fraction], free: Sequence[int]) -> list[int]:
    """Shares `total` new weights among layers in proportion to their importance; the result sums to `total` exactly.

    A layer whose share exceeds its free positions is filled, and what is left over is divided equally among the layers
    that are not full, until nothing exceeds. Fractions are settled by largest remainder, ties by layer order.
    Computed in rational numbers, so nothing depends on rounding.

    Args:
        total: weights to hand out, 0 to sum(free).
        importance: r_l >= 0, not all 0; they need not be normalised.
        free: positions that layer l can still take.

    Example:
        >>> redistribute(10, [0.7, 0.2, 0.1], [4, 10, 10])
        [4, 4, 2]
    """
    if total > sum(free):
        raise ValueError(f"cannot grow {total} weights in layers with {sum(free)} free positions")
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


def redistribute_within_budget(
    total: int,
    importance: Sequence[float],
    free: Sequence[int],
    kept: Sequence[int],
    cost: Sequence[float],
    budget: float,
) -> list[int]:
    """Redistributes as `redistribute` does, with the FLOPs of all, sum of cost_l * (kept_l + share_l), within `budget`.

    Importance is tilted towards cheap layers, r_l * exp(-tilt * cost_l / max cost), with the smallest tilt (found by
    bisection) that meets the budget. If no tilt does, the cheapest layers are filled first. That is the cheapest
    redistribution, so a network above its budget comes down as fast as the prune rate allows.

    Args:
        total: as for `redistribute`.
        importance: as for `redistribute`.
        free: as for `redistribute`.
        kept: active weights of each layer that survive the pruning.
        cost: FLOPs of one weight of each layer; budget: FLOPs of the whole network (same unit).

    Example:
        >>> redistribute_within_budget(10, [0.9, 0.1], [10, 10], kept=[0, 0], cost=[10.0, 1.0], budget=55.0)
        [5, 5]
    """

    def flops(counts: Sequence[int]) -> float:
        return sum(c * (a + b) for c, a, b in zip(cost, kept, counts, strict=True))

    dearest = max(cost) or 1.0

    def tilted(tilt: float) -> list[int]:
        return redistribute(
            total, [r * math.exp(-tilt * c / dearest) for r, c in zip(importance, cost, strict=True)], free
        )

    best = redistribute(total, importance, free)
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
