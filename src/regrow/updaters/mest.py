"""Memory-economic sparse training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

import regrow.criteria as criteria
from regrow.redistribution import PruneRequest, by_rate, keep_counts
from regrow.schedules import piecewise, step_at

from .base import check_steps
from .composed import ComposedUpdater

__all__ = ["MEST"]

STAGES = (0.5625, 0.75)
"""Parts of the training after which updates replace fewer weights, then none: the authors' epochs 90, 120 of 160."""


class SoftBound:
    """Target and amount of EM&S: weights grow above the bound at an update, and the next one prunes back to it."""

    def __init__(self, bound: Mapping[str, int]):
        self.bound = dict(bound)

    def target(self, request: PruneRequest) -> Sequence[int]:
        bounds = [self.bound[name] for name in request.names]
        extra = [math.ceil(request.rate * bound) for bound in bounds]
        return [min(b + e, n) for b, e, n in zip(bounds, extra, request.numel, strict=True)]

    def amount(self, request: PruneRequest) -> Sequence[int]:
        return [max(m - self.bound[name], 0) for m, name in zip(request.active, request.names, strict=True)]


class MEST(ComposedUpdater):
    """Memory-economic sparse training (Yuan et al. 2021, arXiv:2110.14032, section 3: elastic mutation, EM and EM&S).

    At an update each layer prunes the weights of smallest |w| + lambda |g| (g: the last step's gradient) and grows as
    many at random. It never computes a dense gradient. In a second part of the training updates replace fewer weights,
    in a third part none. With the soft memory bound (EM&S) grown weights are added first, and the next update chooses
    among old and new ones: between updates a layer has up to 1 + prune_rate times its weights, and its own number again
    from the third part on. Grown weights start at 0, with momentum 0 and their layer's mean second moment.

    Args:
        model: a model from `sparsify`.
        optimizer: any.
        total_steps: optimizer steps T of the whole training; after it nothing changes.
        update_every: optimizer steps between updates, 1 to T (the authors: 5 epochs); None: by hand, with `update()`.
        prune_rate: fraction of a layer's weights that updates replace until 0.5625 T, in [0, 1); half of it until
            0.75 T.
        gradient_weight: lambda, the weight of |g| in the prune score, at least 0.
        soft_bound: use EM&S; False: EM.
        seed: seed of the random growth; None draws one from torch's global generator.

    Raises:
        ValueError: as `ComposedUpdater`, and if no update would return to the bound; nothing is changed.

    Example:
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.MEST(model, optimizer, total_steps=54_000, update_every=2_700, seed=0)
    """

    method = "mest"
    updates = 160 / 5

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        prune_rate: float = 0.5,
        gradient_weight: float = 1.0,
        soft_bound: bool = True,
        seed: int | None = None,
    ):
        if not 0 <= prune_rate < 1:
            raise ValueError(f"prune_rate={prune_rate} must be at least 0 and below 1")
        if not gradient_weight >= 0:
            raise ValueError(f"gradient_weight={gradient_weight} must be at least 0")
        check_steps(total_steps, update_every)
        less, none = (step_at(fraction, total_steps) for fraction in STAGES)
        if soft_bound and update_every and (total_steps - 1) // update_every * update_every < none:
            raise ValueError(
                f"update_every={update_every} leaves no update between step {none} and total_steps={total_steps}, so "
                "the weights above the bound would stay; update more often, or set soft_bound=False"
            )
        self._soft = SoftBound({})
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=piecewise({0: prune_rate, less: prune_rate / 2, none: 0.0}),
            prune=criteria.magnitude_and_gradient(gradient_weight),
            grow=criteria.random,
            target=self._soft.target if soft_bound else keep_counts,
            amount=self._soft.amount if soft_bound else by_rate,
            uses_gradient=True,
            seed=seed,
        )
        self._soft.bound = {name: weight.active for name, weight in self._weights.items()}

    def _own_state(self) -> dict[str, Any]:
        return {"bound": dict(self._soft.bound)}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        self._soft.bound = dict(state["bound"])
