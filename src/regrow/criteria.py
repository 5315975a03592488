"""Scores: the parts of an updater, together with the rules of `redistribution` and the functions of `schedules`.

A criterion is a function of one layer, seen through `Layer`, that returns scores; `topology` turns scores into active
sets. Of prune scores the smallest go, of grow scores the largest come; an importance is one number of a layer.

Example:
    >>> def momentum_times_magnitude(layer):
    ...     return layer.momentum.abs() * layer.values.abs()  # a prune score
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from regrow._renamed import names

from .schedules import Schedule
from .topology.lazy import LARGEST_TENSOR, LazyScores, ProductGradient, RandomScores, SampledScores
from .topology.link_prediction import LINK_SCORES, LinkScores
from .topology.random import gumbel

__all__ = [
    "GrowScore",
    "Importance",
    "Layer",
    "PruneScore",
    "active_weights",
    "inactive_gradient",
    "inactive_momentum",
    "link_prediction",
    "magnitude",
    "magnitude_and_gradient",
    "mean_gradient",
    "mean_magnitude",
    "mean_momentum",
    "random",
    "rank_among_sign",
    "relative_importance",
    "sampled",
    "sampled_gradient",
]


class Layer(Protocol):
    """A layer as a criterion sees it at an update, before anything is pruned. Do not write to it."""

    name: str
    shape: torch.Size
    """Dense shape; the first dimension is the outputs."""
    numel: int
    step: int
    """Optimizer steps taken."""
    learning_rate: float
    """Learning rate of the layer's parameter group now."""
    indices: Tensor
    """Active positions, int64, shape (active,), ascending."""
    values: Tensor
    """Active weights, shape (active,)."""
    flops_per_weight: float
    """Forward FLOPs of one weight for one example; nan where not measured."""
    generator: torch.Generator
    """Random generator on the CPU; the updater's state contains it."""

    @property
    def active(self) -> int:
        """Number of active weights."""

    @property
    def momentum(self) -> Tensor:
        """M of the active weights, shape (active,): SGD's buffer, or Adam's m_hat / (sqrt(v_hat) + eps)."""

    @property
    def gradient(self) -> Tensor:
        """The last step's gradient of the active weights, shape (active,); uses_gradient=True."""

    @property
    def inactive_momentum(self) -> Tensor | LazyScores:
        """|M| of every position as if it were inactive, shape (numel,); computed at each call; collect="momentum".

        Of a layer with more than `lazy.LARGEST_TENSOR` positions it is no tensor, and only says where it is largest.
        """

    @property
    def inactive_gradient(self) -> Tensor | LazyScores:
        """|g| of every position in the last step; collect="gradient". Otherwise like `inactive_momentum`."""

    @property
    def sampled_gradient(self) -> ProductGradient:
        """|g| of the last step at few positions, and how active rows and columns were; collect="sampled-gradient"."""


PruneScore = Callable[[Layer], Tensor]
GrowScore = Callable[[Layer], Tensor | LazyScores]
Importance = Callable[[Layer], float]


def magnitude(layer: Layer) -> Tensor:
    """Prune score |w|, shape (active,): prunes the smallest (sparse momentum, section 3; Han et al. 2015).

    Args:
        layer: the layer as it is before anything is pruned.
    """
    return layer.values.abs()


def rank_among_sign(layer: Layer) -> Tensor:
    """Prune score of SET, shape (active,): the rank of |w| among the weights of its sign, as a fraction of them.

    So the same share goes of the smallest positive and of the largest negative weights (Mocanu et al. 2018,
    arXiv:1707.04780, algorithm 1). 0 counts as positive; ties go to the lower position.

    Args:
        layer: the layer as it is before anything is pruned.
    """
    scores = torch.empty(layer.active, dtype=torch.float64, device=layer.values.device)
    negative = layer.values < 0
    for side in (negative, ~negative):
        order = layer.values[side].abs().argsort(stable=True)
        ranks = torch.empty_like(order, dtype=torch.float64)
        ranks[order] = (torch.arange(order.numel(), dtype=torch.float64, device=order.device) + 0.5) / order.numel()
        scores[side] = ranks
    return scores


def magnitude_and_gradient(gradient_weight: float = 1.0) -> PruneScore:
    """Prune score |w| + gradient_weight * |g| (MEST, Yuan et al. 2021, arXiv:2110.14032, section 3.1).

    Args:
        gradient_weight: lambda, at least 0.
    """

    def score(layer: Layer) -> Tensor:
        return layer.values.abs() + gradient_weight * layer.gradient.abs()

    return score


def inactive_momentum(layer: Layer) -> Tensor | LazyScores:
    """Grow score |M|, shape (numel,): grows the largest (sparse momentum, section 3).

    Args:
        layer: the layer as it is before anything is pruned.
    """
    return layer.inactive_momentum


def inactive_gradient(layer: Layer) -> Tensor | LazyScores:
    """Grow score |g| of the last step, shape (numel,): grows the largest (RigL, arXiv:1911.11134, section 3).

    Args:
        layer: the layer as it is before anything is pruned.
    """
    return layer.inactive_gradient


def sampled_gradient(candidates: float = 1.0, sampling: str = "activity") -> GrowScore:
    """Grow score |g| of the last step at a sample of positions: grows the largest of these (GSE, arXiv:2401.06898).

    No gradient of other positions is needed, and in compressed storage none is computed.

    Args:
        candidates: gamma, positions in the sample for each active weight of the layer, above 0.
        sampling: "activity": position (i, j) is drawn in proportion to the sum of |gradient| of output i times that of
            |input| j, which bounds |g| (GraBo, section 3); "uniform": all alike.

    Raises:
        ValueError: a value is out of range.
    """
    if not (candidates > 0 and math.isfinite(candidates)):
        raise ValueError(f"candidates={candidates} must be above 0, such as 1.0 for as many as there are weights")
    if sampling not in ("activity", "uniform"):
        raise ValueError(f"sampling={sampling!r} is unknown; use 'activity' or 'uniform'")

    def score(layer: Layer) -> LazyScores:
        number = max(round(candidates * layer.active), 1)
        return SampledScores(layer.sampled_gradient, number, layer.generator, uniform=sampling == "uniform")

    return score


def relative_importance(layer: Layer) -> Tensor:
    """Prune score |w| / (sum of its row) + |w| / (sum of its column), shape (active,) (arXiv:2501.19107, section 3).

    Args:
        layer: the layer as it is before anything is pruned.
    """
    inputs = layer.numel // layer.shape[0]
    rows, columns, sizes = layer.indices // inputs, layer.indices % inputs, layer.values.abs().double()
    of_rows = sizes.new_zeros(layer.shape[0]).index_add_(0, rows, sizes)[rows]
    of_columns = sizes.new_zeros(inputs).index_add_(0, columns, sizes)[columns]
    return sizes / of_rows.clamp(min=1e-300) + sizes / of_columns.clamp(min=1e-300)


def sampled(score: PruneScore, temperature: Schedule) -> PruneScore:
    """Prune score that keeps a random sample: weights stay with chances in proportion to score^temperature.

    The soft rule of CHTs (arXiv:2501.19107, section 3); drawn one after the other, without replacement.

    Args:
        score: prune score, at least 0.
        temperature: step -> exponent, at least 0; large ones keep the largest scores.
    """

    def drawn(layer: Layer) -> Tensor:
        scores = score(layer).double()
        noise = gumbel(scores.numel(), layer.generator).to(scores.device)
        return temperature(layer.step) * scores.clamp(min=1e-300).log() + noise

    return drawn


def link_prediction(score: str = "ch2-l3n", soft: bool = True) -> GrowScore:
    """Grow score of Cannistraci-Hebb theory: links that the network's own links predict; no gradient is read.

    A weight is a bipartite network of its outputs and inputs (of a convolution, channels and kernel positions), as
    pruning has left it.

    Args:
        score: "ch3-l3p" (paths, exact), "ch3-l3n" or "ch2-l3n" (nodes, the approximations of CHTs).
        soft: draw in proportion to scores; otherwise the largest.

    Raises:
        ValueError: there is no such score.
    """
    if score not in LINK_SCORES:
        raise ValueError(f"score={score!r} is unknown; use one of {', '.join(LINK_SCORES)}")

    def grow(layer: Layer) -> LazyScores:
        if layer.numel > LARGEST_TENSOR:
            raise ValueError(
                f"{layer.name} has {layer.numel:,} positions, too many to score its links; keep it dense, or use GSE "
                "or SET"
            )
        return LinkScores((layer.shape[0], layer.numel // layer.shape[0]), score, layer.generator, soft)

    return grow


def random(layer: Layer) -> Tensor | LazyScores:
    """Grow score at random, shape (numel,), from the updater's generator: a uniform draw of inactive positions (SET).

    Args:
        layer: the layer as it is before anything is pruned.
    """
    if layer.numel > LARGEST_TENSOR:
        return RandomScores(layer.numel, layer.generator)
    return torch.rand(layer.numel, generator=layer.generator, dtype=torch.float64).to(layer.indices.device)


def mean_momentum(layer: Layer) -> float:
    """Importance of a layer: the mean of |M| over its active weights (sparse momentum, section 3).

    Args:
        layer: the layer as it is before anything is pruned.
    """
    return float(layer.momentum.abs().mean(dtype=torch.float64))


def mean_gradient(layer: Layer) -> float:
    """Importance of a layer: the mean of |g| over its active weights in the last step (ablation of sparse momentum).

    Args:
        layer: the layer as it is before anything is pruned.
    """
    return float(layer.gradient.abs().mean(dtype=torch.float64))


def mean_magnitude(layer: Layer) -> float:
    """Importance of a layer: the mean of |w| over its active weights (ablation of sparse momentum).

    Args:
        layer: the layer as it is before anything is pruned.
    """
    return float(layer.values.abs().mean(dtype=torch.float64))


def active_weights(layer: Layer) -> float:
    """Importance of a layer: how many weights it has, "non-zeros" in the ablation of sparse momentum.

    Args:
        layer: the layer as it is before anything is pruned.
    """
    return float(layer.active)


__getattr__ = names(__name__, {"missing_gradient": "inactive_gradient", "missing_momentum": "inactive_momentum"})
