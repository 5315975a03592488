"""Dynamic sparse reparameterization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

import regrow.criteria as criteria
from regrow.redistribution import PruneRequest, by_survivors
from regrow.schedules import prune_rate_schedule

from .composed import ComposedUpdater

__all__ = ["DSR"]


class AdaptiveThreshold:
    """Amount: all weights below one threshold for the whole network, which doubles or halves towards the rate.

    DSR, arXiv:1902.05967, algorithm 1. Each layer keeps at least one weight.

    Args:
        value: the first threshold, above 0.
        tolerance: relative deviation from the wanted number that changes nothing, in [0, 1).
    """

    def __init__(self, value: float, tolerance: float):
        if not value > 0:
            raise ValueError(f"threshold={value} must be above 0")
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance={tolerance} must be at least 0 and below 1")
        self.value = value
        self.tolerance = tolerance

    def __call__(self, request: PruneRequest) -> Sequence[int]:
        below = [int((scores < self.value).sum()) for scores in request.scores]
        counts = [min(k, m - 1) for k, m in zip(below, request.active, strict=True)]
        wanted = request.rate * sum(request.active)
        if sum(counts) < (1 - self.tolerance) * wanted:
            self.value *= 2
        elif sum(counts) > (1 + self.tolerance) * wanted:
            self.value /= 2
        return counts


class DSR(ComposedUpdater):
    """Dynamic sparse reparameterization (Mostafa & Wang 2019, arXiv:1902.05967, algorithm 1).

    An update prunes all weights of the network below a threshold. The threshold doubles after an update that pruned too
    few, and halves after one that pruned too many. As many weights grow at random positions, redistributed among layers
    in proportion to the weights that survived. Grown weights start at 0, with momentum 0 and their layer's mean second
    moment.

    Args:
        model: a model from `sparsify`.
        optimizer: any.
        total_steps: optimizer steps T of the whole training; after it nothing changes.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`.
        prune_rate: N_p, the fraction of all active weights that an update should prune, in [0, 1). The paper's 600
            weights for LeNet-300-100 are 0.045 at 5 % density.
        threshold: H, the first threshold on |w|, above 0.
        tolerance: delta, relative deviation from N_p that does not change the threshold, in [0, 1).
        max_density: no layer grows above this density, or above its initial density if that is higher; in (0, 1].
        seed: seed of the random growth; None draws one from torch's global generator.

    Attributes:
        threshold: the present threshold.

    Raises:
        ValueError: as `ComposedUpdater`; nothing is changed.

    Example:
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.DSR(model, optimizer, total_steps=54_000, update_every=540, seed=0)
        >>> updater.threshold
        0.001
    """

    method = "dsr"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        prune_rate: float = 0.05,
        threshold: float = 1e-3,
        tolerance: float = 0.1,
        max_density: float = 1.0,
        seed: int | None = None,
    ):
        self._threshold = AdaptiveThreshold(threshold, tolerance)
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=prune_rate_schedule("constant", prune_rate, max(total_steps, 1)),
            prune=criteria.magnitude,
            amount=self._threshold,
            grow=criteria.random,
            redistribution_rule=by_survivors,
            max_density=max_density,
            seed=seed,
        )

    @property
    def threshold(self) -> float:
        return self._threshold.value

    def _own_state(self) -> dict[str, Any]:
        return {"threshold": self._threshold.value}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        self._threshold.value = state["threshold"]
