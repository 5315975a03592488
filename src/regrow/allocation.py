"""How many active weights each layer starts with, so that the whole network has exactly the density asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from .topology import round_to_total

__all__ = ["DISTRIBUTIONS", "initial_counts"]

DISTRIBUTIONS = ("uniform", "er", "erk")


def initial_counts(shapes: Sequence[Sequence[int]], density: float, distribution: str = "uniform") -> list[int]:
    """Active weights of each layer; they sum to round(density * number of positions), at least 1 a layer.

    `uniform` gives every layer the same density (sparse momentum, section 3). `er` is Erdős-Rényi, density
    proportional to (n_out + n_in) / (n_out * n_in) (Mocanu et al. 2018, arXiv:1707.04780), with kernel sizes left out.
    `erk` counts the kernel too: (n_out + n_in + kH + kW) / (n_out * n_in * kH * kW) (RigL, arXiv:1911.11134, sec. 3).
    A layer that would exceed density 1 is made dense and the rest of the budget is scaled up to fit.

    Args:
        shapes: of the weights, first dimension the outputs, second the inputs, any others the kernel.
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
    return _at_least_one(round_to_total(_fit(numel, affinity, total), total))


def _affinity(shape: Sequence[int], distribution: str) -> Fraction:
    """The density of a layer, up to a factor common to all layers."""
    if distribution == "uniform":
        return Fraction(1)
    dims = shape[:2] if distribution == "er" else shape
    return Fraction(sum(dims), math.prod(dims))


def _fit(numel: Sequence[int], affinity: Sequence[Fraction], total: int) -> list[Fraction]:
    """Quotas proportional to affinity * numel, none above numel, summing to total."""
    densities = [Fraction(1)] * len(numel)
    rest = list(range(len(numel)))
    while rest:
        left = total - sum(n for layer, n in enumerate(numel) if layer not in rest)
        scale = Fraction(left) / sum(affinity[layer] * numel[layer] for layer in rest)
        fitting = [layer for layer in rest if scale * affinity[layer] <= 1]
        if fitting == rest:
            for layer in rest:
                densities[layer] = scale * affinity[layer]
            break
        rest = fitting
    return [density * n for density, n in zip(densities, numel, strict=True)]


def _at_least_one(counts: list[int]) -> list[int]:
    """A layer left with nothing takes one weight from the layer that has most."""
    for layer, count in enumerate(counts):
        if count == 0:
            counts[counts.index(max(counts))] -= 1
            counts[layer] = 1
    return counts
