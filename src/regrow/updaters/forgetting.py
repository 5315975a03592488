"""Structural learning with forgetting."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regrow.schedules import step_at

from .one_cut import OneCut

__all__ = ["Forgetting"]


class Forgetting(OneCut):
    """Structural learning with forgetting (Ishikawa 1996, "Structural learning with forgetting", sections 2 and 4).

    Starts dense. All weights decay at a constant rate: the loss gets the term penalty * sum of |w|, whose gradient is
    added to that of the network before the optimizer steps. Then only weights below `threshold` decay, so that those
    that are needed recover (selective forgetting). At `end` the smallest weights are pruned, and what is left trains on
    without a penalty.

    Args:
        model: `sparsify(model, 1.0, storage="masked")`.
        optimizer: any.
        total_steps: optimizer steps T of the whole training.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`.
        density: final density, in (0, 1).
        penalty: epsilon', at least 0.
        threshold: theta, size below which weights decay in the second phase, at least 0.
        selective: fraction of T from which forgetting is selective, 0 to `end`.
        end: fraction of T at which weights are pruned; the first update at or after it does.
        scope: "local" (each layer has the density) or "global" (the smallest weights of all layers are pruned).

    Raises:
        ValueError: as `ComposedUpdater`, and if no update comes after `end`; nothing is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 1.0, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.Forgetting(model, optimizer, total_steps=54_000, update_every=540, density=0.05)
    """

    method = "forgetting"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        density: float,
        penalty: float = 1e-4,
        threshold: float = 0.1,
        selective: float = 0.5,
        end: float = 0.75,
        scope: str = "local",
    ):
        if not penalty >= 0:
            raise ValueError(f"penalty={penalty} must be at least 0")
        if not threshold >= 0:
            raise ValueError(f"threshold={threshold} must be at least 0")
        if not 0 <= selective <= end:
            raise ValueError(f"selective={selective} must be between 0 and end={end}")
        self._penalty, self._threshold = penalty, threshold
        self._selective = step_at(selective, total_steps)
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            density=density,
            end=end,
            scope=scope,
        )

    def _add(self, name: str, values: Tensor, gradient: Tensor, scale: float) -> None:
        term = values.sign()
        if self.step >= self._selective:
            term = torch.where(values.abs() < self._threshold, term, 0)
        gradient.add_(term, alpha=self._penalty * scale)
