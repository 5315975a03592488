"""Sparse evolutionary training."""

from __future__ import annotations

import torch
from torch import nn

import regrow.criteria as criteria
from regrow.schedules import prune_rate_schedule

from .composed import ComposedUpdater

__all__ = ["SET"]


class SET(ComposedUpdater):
    """Sparse evolutionary training (Mocanu et al. 2018, arXiv:1707.04780, algorithm 1).

    At an update each layer prunes the same fraction of its smallest positive and of its largest (nearest to 0) negative
    weights, and grows as many at random positions, which may be the ones just pruned. Grown weights start at 0, with
    momentum 0 and their layer's mean second moment.

    Args:
        model: a model from `sparsify`; the paper starts from distribution="er".
        optimizer: any.
        total_steps: optimizer steps T of the whole training; after it nothing changes.
        update_every: optimizer steps between updates, 1 to T (the paper: an epoch); None: by hand, with `update()`.
        prune_rate: zeta, fraction of each sign's weights that an update replaces, in [0, 1).
        schedule: "constant" (the paper), "cosine" or "linear", see `schedules.prune_rate_schedule`.
        seed: seed of the random growth; None draws one from torch's global generator.

    Raises:
        ValueError: as `ComposedUpdater`; nothing is changed.

    Example:
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.SET(model, optimizer, total_steps=54_000, update_every=540, seed=0)
    """

    method = "set"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        prune_rate: float = 0.3,
        schedule: str = "constant",
        seed: int | None = None,
    ):
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=prune_rate_schedule(schedule, prune_rate, max(total_steps, 1)),
            prune=criteria.rank_among_sign,
            grow=criteria.random,
            seed=seed,
        )
