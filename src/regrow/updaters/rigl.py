"""RigL."""

from __future__ import annotations

import torch
from torch import nn

import regrow.criteria as criteria
from regrow.schedules import cosine_decay

from .composed import ComposedUpdater

__all__ = ["RigL"]


class RigL(ComposedUpdater):
    """RigL, the rigged lottery (Evci et al. 2020, arXiv:1911.11134, section 3 and algorithm 1).

    At an update each layer prunes its weights of smallest magnitude and grows as many where the gradient of the last
    step is largest, which may be the ones just pruned. Grown weights start at 0, with momentum 0 and their layer's mean
    second moment. The fraction that is replaced falls as half a cosine to 0 at `stop_fraction` of the training, where
    updates end. Dense gradients are computed only in the step before an update.

    Args:
        model: a model from `sparsify`; the paper has distribution="uniform" (with the first layer dense) and "erk".
        optimizer: any.
        total_steps: optimizer steps T of the whole training.
        update_every: optimizer steps between updates, 1 to T (the paper: 100); None: by hand, with `update()`.
        prune_rate: alpha, fraction of weights that the first update replaces, in [0, 1).
        stop_fraction: fraction of the training after which the topology is final, T_end / T, in (0, 1].
        window_batch: number of examples of a batch used for the dense gradient of compressed weights; None: all.
        seed: unused, because RigL draws nothing at random; kept for a uniform interface.

    Raises:
        ValueError: as `ComposedUpdater`; nothing is changed.

    Example:
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.RigL(model, optimizer, total_steps=54_000, update_every=100)
    """

    method = "rigl"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        prune_rate: float = 0.3,
        stop_fraction: float = 0.75,
        window_batch: int | None = None,
        seed: int | None = None,
    ):
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=cosine_decay(prune_rate, end=max(stop_fraction * total_steps, 1)),
            prune=criteria.magnitude,
            grow=criteria.inactive_gradient,
            collect="gradient",
            stop_fraction=stop_fraction,
            window_batch=window_batch,
            seed=0 if seed is None else seed,
        )
