"""Prune and retrain, as Han et al. did."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import regrow.criteria as criteria
from regrow.redistribution import to_density
from regrow.schedules import piecewise, step_at

from .composed import ComposedUpdater
from .final_density import final_step, never

__all__ = ["Han"]


def _magnitude_in_deviations(layer: criteria.Layer) -> Tensor:
    """|w| over the standard deviation of the layer's weights: one quality parameter for all layers (Han et al.)."""
    deviation = float(layer.values.double().std(correction=0)) or 1.0
    return layer.values.abs() / deviation


class Han(ComposedUpdater):
    """Prune and retrain (Han et al. 2015, arXiv:1506.02626, section 3).

    Starts dense. Each round prunes all weights that are smaller than a quality parameter times the standard deviation
    of their layer's weights, and trains the rest. The quality parameter is the one that gives the wanted density,
    which falls by the same factor in each round.

    Args:
        model: `sparsify(model, 1.0, storage="masked")`.
        optimizer: any.
        total_steps: optimizer steps T of the whole training, all rounds included; after it nothing changes.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`. A round comes with
            the first update at or after its time.
        density: final density, in (0, 1).
        rounds: number of rounds of pruning, at least 1.
        begin: fraction of T at which the density starts to fall, 0 <= begin < end < 1.
        end: fraction of T at which the density stops falling.

    Raises:
        ValueError: as `ComposedUpdater`, and if no update comes after `end`; nothing is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 1.0, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.Han(model, optimizer, total_steps=54_000, update_every=540, density=0.05)
    """

    method = "han"
    starts_dense = True
    updates = 100

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        density: float,
        rounds: int = 3,
        begin: float = 0.4,
        end: float = 0.8,
    ):
        final_step(model, density, total_steps, update_every, end)
        if rounds < 1:
            raise ValueError(f"rounds={rounds} must be at least 1")
        if not 0 < begin <= end < 1:
            raise ValueError(f"begin={begin} must be above 0 and at most end={end}, which must be below 1")
        times = [begin + (end - begin) * i / max(rounds - 1, 1) for i in range(rounds)]
        steps: dict[float, float] = {
            step_at(time, total_steps): density ** ((i + 1) / rounds) for i, time in enumerate(times)
        }
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=never,
            prune=_magnitude_in_deviations,
            target=to_density(piecewise({0: 1.0} | steps), "global"),
            grow=None,
            seed=0,
        )
