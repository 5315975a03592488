"""Methods that train all weights first, in a way that says which ones matter, and then prune them in one update."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from regrow.criteria import Layer
from regrow.optimizers.hooks import grad_scale_of, was_skipped
from regrow.redistribution import check_scope, to_density
from regrow.schedules import piecewise

from .composed import ComposedUpdater
from .final_density import final_step, never

__all__ = ["OneCut"]


class OneCut(ComposedUpdater):
    """An updater that prunes to the final density in the first update at or after `end`; before, it trains.

    Methods override `_add`, which adds to gradients before the optimizer steps, and `_score`.

    Args:
        model: as in `GMP`.
        optimizer: as in `GMP`.
        total_steps: as in `GMP`.
        update_every: as in `GMP`.
        density: final density, in (0, 1).
        end: fraction of T at which weights are pruned.
        scope: "local" or "global", where weights compete.
    """

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
        end: float,
        scope: str,
    ):
        self._last = final_step(model, density, total_steps, update_every, end)
        if self._last < 1:
            raise ValueError(f"end={end} leaves no step before weights are pruned")
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=never,
            prune=self._score,
            target=to_density(piecewise({0: 1.0, self._last: density}), check_scope(scope)),
            grow=None,
            seed=0,
        )

    def _score(self, layer: Layer) -> Tensor:
        """Prune scores, shape (active,); the smallest are pruned."""
        return layer.values.abs()

    @property
    def _is_dense(self) -> bool:
        """Returns whether the weights are still to be pruned."""
        return not any(row["pruned"] for row in self.history)

    def _before_step(self) -> None:
        super()._before_step()
        if not self._is_dense:
            return
        scale = grad_scale_of(self.optimizer)
        for name, weight in self._weights.items():
            if weight.parameter.grad is not None:
                self._add(name, weight.parameter.detach(), weight.parameter.grad.detach(), scale)

    def _add(self, name: str, values: Tensor, gradient: Tensor, scale: float) -> None:
        """Adds a term to the gradient of a weight, while all weights are there.

        Args:
            values: the parameter.
            gradient: its gradient, as the optimizer will see it; written to.
            scale: factor by which a fused optimizer still divides gradients.
        """

    def _stepped(self, name: str, values: Tensor) -> None:
        """Called after the step of a weight that `_add` was called for."""

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self._is_dense and not was_skipped(optimizer):
            for name, weight in self._weights.items():
                self._stepped(name, weight.parameter.detach())
        super()._after_step(optimizer, args, kwargs)
