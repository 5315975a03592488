"""Rules of counts: how many weights each layer has after an update, how many it prunes, how many it grows.

All are pure functions of integers and scores, and all counts add up: what the layers grow is exactly what they shall
have less what they keep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from regrow._renamed import names, renamed_value

from . import topology
from .topology.distributions import initial_counts

__all__ = [
    "RULES",
    "Amount",
    "PruneRequest",
    "RedistributionRequest",
    "RedistributionRule",
    "Target",
    "by_importance",
    "by_importance_per_flop",
    "by_rate",
    "by_survivors",
    "check_scope",
    "globally",
    "keep_counts",
    "keep_own",
    "to_density",
]


@dataclass(frozen=True)
class PruneRequest:
    """The state of all layers before anything is pruned: one entry a layer."""

    names: Sequence[str]
    """Names of the parameters."""
    step: int
    """Optimizer steps taken."""
    rate: float
    """Fraction of a layer's active weights to replace, by the schedule."""
    active: Sequence[int]
    """m_l."""
    numel: Sequence[int]
    """n_l."""
    scores: Sequence[Tensor]
    """Prune scores of the active weights."""
    importance: Sequence[float] | None = None
    """r_l, summing to 1; None if the method has none."""
    target: Sequence[int] = ()
    """c_l, active weights of each layer after the update, without redistribution between layers."""


Target = Callable[[PruneRequest], Sequence[int]]
"""c_l of each layer."""

Amount = Callable[[PruneRequest], Sequence[int]]
"""k_l, how many weights each layer prunes: 0 to m_l - 1, those of smallest score."""


def keep_counts(request: PruneRequest) -> Sequence[int]:
    """Target: the present number of weights; the density of the network does not change.

    Args:
        request: the facts about all layers, one entry a layer.
    """
    return request.active


def check_scope(scope: str) -> str:
    """Returns where weights compete: "local", in each layer, or "global", in the whole network.

    Args:
        scope: "local" or "global".

    Raises:
        ValueError: it is something else.
    """
    scope = renamed_value("scope", scope, {"layer": "local", "network": "global"})
    if scope not in ("local", "global"):
        raise ValueError(f"scope={scope!r} is unknown; use 'local' or 'global'")
    return scope


def to_density(schedule: Callable[[int], float], scope: str = "local") -> Target:
    """Target: the density that a schedule gives for the step, in (0, 1].

    Args:
        schedule: step -> density of all sparse weights together; round(density * positions) are kept, in layers that
            are frozen as well.
        scope: "local": each layer has this density; "global": the largest scores of all layers are kept, at least
            one a layer.
    """
    scope = check_scope(scope)

    def target(request: PruneRequest) -> Sequence[int]:
        counts, have = initial_counts([(n, 1) for n in request.numel], schedule(request.step)), sum(request.active)
        if scope == "local" or sum(counts) > have:
            return counts
        return topology.counts_of_largest(request.scores, sum(counts))

    return target


def by_rate(request: PruneRequest) -> Sequence[int]:
    """Amount: each layer prunes down to its target, and then the rate's fraction of what is left.

    See `topology.prune_counts` for layers that are nearly dense.

    Args:
        request: the facts about all layers, one entry a layer.
    """
    shrunk = [min(m, c) for m, c in zip(request.active, request.target, strict=True)]
    exchanged = topology.prune_counts(request.rate, shrunk, request.numel, request.importance)
    return [m - s + k for m, s, k in zip(request.active, shrunk, exchanged, strict=True)]


def globally(request: PruneRequest) -> Sequence[int]:
    """Amount: as many as `by_rate` in total, but the smallest scores of the whole network.

    Args:
        request: the facts about all layers, one entry a layer.
    """
    total = sum(by_rate(request))
    kept = topology.counts_of_largest(request.scores, sum(request.active) - total)
    return [m - k for m, k in zip(request.active, kept, strict=True)]


@dataclass(frozen=True)
class RedistributionRequest:
    """The state that a redistribution rule sees: one entry a layer."""

    importance: Sequence[float]
    """r_l, summing to 1; empty if the method has none."""
    pruned: Sequence[int]
    """k_l, the number of weights that each layer pruned."""
    free: Sequence[int]
    """f_l, the number of weights that each layer can grow; never less than k_l."""
    kept: Sequence[int]
    """Active weights that remain after the pruning."""
    target: Sequence[int]
    """c_l, active weights of each layer without redistribution."""
    flops_per_weight: Sequence[float]
    """Forward FLOPs of one weight of each layer for one example; NaN if not measured."""
    flops_budget: float | None = None
    """Forward FLOPs of one example that these layers may cost together; None: no limit."""

    @property
    def total(self) -> int:
        """Number of weights to redistribute."""
        return sum(self.target) - sum(self.kept)


RedistributionRule = Callable[[RedistributionRequest], Sequence[int]]
"""Maps the state of all layers to how many weights each layer grows; they sum to `request.total`."""


def keep_own(request: RedistributionRequest) -> Sequence[int]:
    """Grows as many weights in each layer as it pruned.

    Args:
        request: the facts about all layers, one entry a layer.
    """
    return [c - kept for c, kept in zip(request.target, request.kept, strict=True)]


def by_importance(request: RedistributionRequest) -> Sequence[int]:
    """Redistributes in proportion to importance (sparse momentum, section 3), within the budget.

    Args:
        request: the facts about all layers, one entry a layer.
    """
    if request.flops_budget is None:
        return topology.redistribute(request.total, request.importance, request.free)
    return topology.redistribute_within_budget(
        request.total, request.importance, request.free, request.kept, request.flops_per_weight, request.flops_budget
    )


def by_importance_per_flop(request: RedistributionRequest) -> Sequence[int]:
    """Redistributes as `by_importance` does, with importance divided by the FLOPs of one weight of the layer.

    Args:
        request: the facts about all layers, one entry a layer.
    """
    cheapest = min((flops for flops in request.flops_per_weight if flops > 0), default=1.0)
    worth = [r / max(c, cheapest) for r, c in zip(request.importance, request.flops_per_weight, strict=True)]
    return topology.redistribute(request.total, worth, request.free)


def by_survivors(request: RedistributionRequest) -> Sequence[int]:
    """Redistributes in proportion to the weights that survived (DSR, arXiv:1902.05967, algorithm 1).

    Args:
        request: the facts about all layers, one entry a layer.
    """
    return topology.redistribute(request.total, request.kept, request.free)


RULES: dict[str, RedistributionRule] = {
    "momentum": by_importance,
    "none": keep_own,
    "momentum-per-flop": by_importance_per_flop,
}


__getattr__ = names(
    __name__,
    {
        "SHARE_RULES": "RULES",
        "ShareRequest": "RedistributionRequest",
        "ShareRule": "RedistributionRule",
        "share_by_importance": "by_importance",
        "share_by_importance_per_flop": "by_importance_per_flop",
        "share_by_survivors": "by_survivors",
        "share_none": "keep_own",
    },
)
