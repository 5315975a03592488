"""Scores and share rules: what an updater is made of.

A criterion is a function of one layer, seen through `Layer`, that returns scores; `topology` turns scores into active
sets. A share rule distributes the weights that were pruned over the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from . import topology

__all__ = [
    "SHARE_RULES",
    "Layer",
    "ShareRequest",
    "magnitude",
    "mean_momentum",
    "missing_momentum",
    "share_by_momentum",
    "share_by_momentum_per_flop",
    "share_none",
]


class Layer(Protocol):
    """What a criterion sees of a layer at an update, before anything is pruned. Nothing here is to be written to."""

    name: str
    numel: int
    indices: Tensor
    """Active positions, int64, shape (active,), ascending."""
    values: Tensor
    """Active weights, shape (active,)."""
    momentum: Tensor
    """M of the active weights, shape (active,)."""
    flops_per_weight: float
    """Forward FLOPs of one weight for one example; nan where not measured."""
    generator: torch.Generator

    @property
    def missing_momentum(self) -> Tensor:
        """|M| of every position were it missing, shape (numel,); made anew each time."""


def magnitude(layer: Layer) -> Tensor:
    """Prune score |w|, shape (active,): the smallest go (sparse momentum, section 3; Han et al. 2015)."""
    return layer.values.abs()


def missing_momentum(layer: Layer) -> Tensor:
    """Grow score |M|, shape (numel,): the largest come (sparse momentum, section 3)."""
    return layer.missing_momentum


def mean_momentum(layer: Layer) -> float:
    """Importance of a layer: the mean of |M| over its active weights (sparse momentum, section 3)."""
    return float(layer.momentum.abs().mean(dtype=torch.float64))


@dataclass(frozen=True)
class ShareRequest:
    """What a share rule knows: one entry a layer."""

    importance: Sequence[float]
    """r_l, summing to 1."""
    pruned: Sequence[int]
    """k_l, the weights each layer gave away."""
    free: Sequence[int]
    """f_l, the positions each layer can take; never less than k_l."""
    kept: Sequence[int]
    """Active weights that remain after the pruning."""
    flops_per_weight: Sequence[float]
    flops_budget: float | None = None
    """Forward FLOPs of one example that these layers may cost together; None: no limit."""


ShareRule = Callable[[ShareRequest], Sequence[int]]


def share_none(request: ShareRequest) -> Sequence[int]:
    """Each layer gets its own weights back."""
    return request.pruned


def share_by_momentum(request: ShareRequest) -> Sequence[int]:
    """The freed weights go to layers in proportion to importance (sparse momentum, section 3), within the budget."""
    total = sum(request.pruned)
    if request.flops_budget is None:
        return topology.share(total, request.importance, request.free)
    return topology.share_within_budget(
        total, request.importance, request.free, request.kept, request.flops_per_weight, request.flops_budget
    )


def share_by_momentum_per_flop(request: ShareRequest) -> Sequence[int]:
    """As `share_by_momentum`, importance divided by the FLOPs of one weight of the layer."""
    cheapest = min((flops for flops in request.flops_per_weight if flops > 0), default=1.0)
    worth = [r / max(c, cheapest) for r, c in zip(request.importance, request.flops_per_weight, strict=True)]
    return topology.share(sum(request.pruned), worth, request.free)


SHARE_RULES: dict[str, ShareRule] = {
    "momentum": share_by_momentum,
    "none": share_none,
    "momentum-per-flop": share_by_momentum_per_flop,
}
