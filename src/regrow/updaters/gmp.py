"""Gradual magnitude pruning."""

from __future__ import annotations

import torch
from torch import nn

import regrow.criteria as criteria
from regrow.redistribution import to_density
from regrow.schedules import cubic_density

from .composed import ComposedUpdater
from .final_density import final_step, never

__all__ = ["GMP"]


class GMP(ComposedUpdater):
    """Gradual magnitude pruning (Zhu & Gupta 2017, arXiv:1710.01878, section 3).

    Starts dense. At an update each layer prunes its weights of smallest magnitude, down to a density that falls as a
    cubic from 1 to `density`. Pruned weights never grow again.

    Args:
        model: `sparsify(model, 1.0, storage="masked")`, or `compress_below=0.3` for layers that become compressed.
        optimizer: any.
        total_steps: optimizer steps T of the whole training; after it nothing changes.
        update_every: optimizer steps between updates, 1 to T (the paper: 100 to 1,000); None: by hand, with `update()`.
        density: final density, in (0, 1).
        begin: fraction of T at which the density starts to fall, 0 <= begin < end < 1.
        end: fraction of T at which the density stops falling; the first update at or after it reaches the final
            density.
        scope: "local" (the paper: each layer has this density) or "global" (prune the smallest weights of all layers).

    Raises:
        ValueError: as `ComposedUpdater`, and if no update comes after `end`; nothing is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 1.0, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.GMP(model, optimizer, total_steps=54_000, update_every=540, density=0.05)
    """

    method = "gmp"
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
        begin: float = 0.0,
        end: float = 0.75,
        scope: str = "local",
    ):
        last = final_step(model, density, total_steps, update_every, end)
        falling = cubic_density(1.0, density, begin * total_steps, last)
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=never,
            prune=criteria.magnitude,
            target=to_density(falling, scope),
            grow=None,
            seed=0,
        )
