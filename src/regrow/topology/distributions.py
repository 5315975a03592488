"""Numbers of active weights with which layers start, so that the whole network has exactly the density asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from .counts import round_to_total

__all__ = ["DISTRIBUTIONS", "initial_counts"]

DISTRIBUTIONS = ("uniform", "er", "erk")


def initial_counts(shapes: Sequence[Sequence[int]], density: float, distribution: str = "uniform") -> list[int]:
    """Active weights of each layer; they sum to round(density * number of positions), at least 1 a layer.

    `uniform` gives every layer the same density (sparse momentum, section 3). `er` is Erdős-Rényi, density
    proportional to (n_out + n_in) / (n_out * n_in) (Mocanu et al. 2018, arXiv:1707.04780), with kernel sizes left out.
    `erk` counts the kernel too: (n_out + n_in + kH + kW) / (n_out * n_in * kH * kW) (RigL, arXiv:1911.11134, sec. 3).
    A layer that would exceed density 1 is made dense and the rest of the budget is scaled up to fit.

    Args:
        shapes: shapes of the weights: first dimension the outputs, second the inputs, any others the kernel.
        density: share of active positions over all layers, in (0, 1].
        distribution: "uniform", "er" or "erk".

    Raises:
        ValueError: unknown distribution, or a density that cannot give every layer one weight.

    Example:
        >>> initial_counts([(300, 784), (100, 300), (10, 100)], 0.05)
        [11760, 1500, 50]
    """
    if distribution not in DISTRIBUTIONS:
        raise ValueError(
            f"distribution={distribution!r} is unknown; use one of {', '.join(DISTRIBUTIONS)} or a mapping"
        )
    numel = [math.prod(shape) for shape in shapes]
    total = round(density * sum(numel))
    if total < len(numel):
        raise ValueError(
            f"density={density} gives {total} active weights to {len(numel)} layers, but each needs at least one; "
            f"use a density of at least {len(numel) / sum(numel):.2g}"
        )
    affinity = [_affinity(shape, distribution) for shape in shapes]
    return round_to_total(_quotas(numel, affinity, total), total)


def _affinity(shape: Sequence[int], distribution: str) -> Fraction:
    """The density of a layer, up to a factor common to all layers."""
    if distribution == "uniform":
        return Fraction(1)
    dims = shape[:2] if distribution == "er" else shape
    return Fraction(sum(dims), math.prod(dims))


def _quotas(numel: Sequence[int], affinity: Sequence[Fraction], total: int) -> list[Fraction]:
    """scale * affinity * numel, but at least 1 and at most numel, with the scale that makes the sum `total`.

    The sum is piecewise linear in the scale, so the scale lies between two of the points where a layer leaves its lower
    or reaches its upper bound.
    """

    def at(scale: Fraction) -> list[Fraction]:
        return [min(max(scale * a * n, Fraction(1)), Fraction(n)) for a, n in zip(affinity, numel, strict=True)]

    points = sorted({1 / a for a in affinity} | {1 / (a * n) for a, n in zip(affinity, numel, strict=True)})
    low = max(point for point in points if sum(at(point)) <= total)
    high = min((point for point in points if point > low), default=low)
    rise = sum(at(high)) - sum(at(low))
    return at(low + (high - low) * (total - sum(at(low))) / rise) if rise else at(low)
