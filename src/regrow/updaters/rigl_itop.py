"""RigL in the schedule of in-time over-parameterisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import regrow.criteria as criteria
from regrow.schedules import prune_rate_schedule

from .composed import ComposedUpdater

__all__ = ["RigLITOP"]


class RigLITOP(ComposedUpdater):
    """RigL in the schedule of in-time over-parameterisation (Liu et al. 2021, arXiv:2102.02887, section 4).

    RigL with long intervals, so that grown weights have time to become large. The first update replaces half of the
    weights, and updates continue to the end of the training. Growth uses the gradient of the last step before the
    update, not one accumulated over several. `exploration_rate` is R_s, the fraction of positions ever active.

    Args:
        model: a model from `sparsify`; the paper has distribution="erk".
        optimizer: any.
        total_steps: optimizer steps T of the whole training.
        update_every: optimizer steps between updates, 1 to T; the authors' CIFAR runs have 4,000 of 97,750 steps.
            None: by hand, with `update()`.
        prune_rate: fraction of weights that the first update replaces, in [0, 1).
        schedule: "cosine" (to 0.005), "linear" or "constant".
        window_batch: number of examples of a batch used for the dense gradient of compressed weights; None: all.
        seed: unused, because nothing is drawn at random; kept for a uniform interface.

    Raises:
        ValueError: as `ComposedUpdater`; nothing is changed.

    Example:
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.RigLITOP(model, optimizer, total_steps=54_000, update_every=2_200)
        >>> round(updater.exploration_rate, 3)  # a new one has seen what is active
        0.1
    """

    method = "rigl-itop"
    updates = 97_750 / 4_000  # the authors' runs on CIFAR-10: 250 epochs of 391 steps, an update every 4,000

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        prune_rate: float = 0.5,
        schedule: str = "cosine",
        window_batch: int | None = None,
        seed: int | None = None,
    ):
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=prune_rate_schedule(schedule, prune_rate, max(total_steps, 1)),
            prune=criteria.magnitude,
            grow=criteria.inactive_gradient,
            collect="gradient",
            window_batch=window_batch,
            seed=0 if seed is None else seed,
        )
        self._explored: dict[str, Tensor] = {
            name: torch.zeros(weight.numel, dtype=torch.bool) for name, weight in self._weights.items()
        }
        self._note_explored()

    @property
    def exploration_rate(self) -> float:
        """R_s: positions that have ever been active, as a share of all; in (0, 1]. A byte a position is kept."""
        seen = sum(int(explored.sum()) for explored in self._explored.values())
        return seen / sum(explored.numel() for explored in self._explored.values())

    def update(self) -> list[dict[str, Any]]:
        rows = super().update()
        self._note_explored()
        return rows

    def _note_explored(self) -> None:
        for name, weight in self._weights.items():
            self._explored[name][weight.indices.cpu()] = True

    def _own_state(self) -> dict[str, Any]:
        return {"explored": dict(self._explored)}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        self._explored = {name: explored.clone() for name, explored in state["explored"].items()}
