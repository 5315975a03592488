"""Shared by methods that end with a density of their own: when it is reached, and what cannot be."""

from __future__ import annotations

from torch import nn

from regrow.schedules import step_at
from regrow.topology.distributions import initial_counts
from regrow.weights import sparse_weights

from .base import check_steps

__all__ = ["final_step", "initial_density", "never"]


def never(step: int) -> float:
    """Replaces no weights."""
    return 0.0


def final_step(model: nn.Module, density: float, total_steps: int, update_every: int | None, end: float) -> int:
    """The step from which the network has its final density; refuses what cannot be."""
    check_steps(total_steps, update_every)
    if not 0 < density < 1:
        raise ValueError(f"density={density}, the final density, must be between 0 and 1")
    if weights := sparse_weights(model).values():
        initial_counts([weight.shape for weight in weights], density)  # raises where a layer would have none
    step = step_at(end, total_steps)
    if update_every and (total_steps - 1) // update_every * update_every < step:
        raise ValueError(
            f"update_every={update_every} leaves no update between step {step}, when the network reaches its final "
            f"density, and total_steps={total_steps}; update more often"
        )
    return step


def initial_density(model: nn.Module, final: float) -> float:
    """Share of active positions over all sparse weights; `final` where rounding left them that few, 1 for none."""
    weights = sparse_weights(model).values()
    if not weights:
        return 1.0
    numel, active = sum(weight.numel for weight in weights), sum(weight.active for weight in weights)
    if active < sum(initial_counts([weight.shape for weight in weights], final)):
        raise ValueError(
            f"the model has a density of {active / numel:.4g}, below the final density={final}; sparsify it less, or "
            "lower the final density"
        )
    return max(active / numel, final)
