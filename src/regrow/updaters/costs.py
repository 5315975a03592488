"""FLOPs of a weight of each layer, for redistribution rules that need them: measured on the first training batch."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import nn

from regrow.distributed import mean_
from regrow.flops import FlopsMeter
from regrow.weights import SparseWeight

__all__ = ["Costs"]


class Costs:
    """FLOPs of one weight of each layer for one example, by name; empty until measured, or if not needed.

    Args:
        needed: whether they are to be measured.
    """

    def __init__(self, model: nn.Module, needed: bool):
        self.per_weight: dict[str, float] = {}
        self._meter = FlopsMeter(model) if needed else None

    def of(self, name: str) -> float:
        return self.per_weight.get(name, math.nan)

    def after_step(self, owner: str, names: Collection[str]) -> None:
        """Ends the measuring after the first step; what a loaded state brought stays."""
        if self._meter is None:
            return
        counted, flops = self._meter.has_counted, self._meter.close()
        self._meter = None
        self.per_weight = self.per_weight or flops
        if not counted and not any(self.per_weight.values()):
            raise RuntimeError(
                f"{owner} redistributes by FLOPs, but saw no forward pass of {', '.join(names)}; make the updater "
                "before the first batch and before a compiled model runs, or redistribute by momentum alone"
            )

    def agree(self, device: torch.device) -> None:
        """Makes them means over ranks, whose batches may have had other shapes."""
        if self.per_weight:
            means = mean_(torch.tensor(list(self.per_weight.values()), dtype=torch.float64, device=device))
            self.per_weight = dict(zip(self.per_weight, means.tolist(), strict=True))

    def left(self, budget: float, weights: Mapping[str, SparseWeight], updated: Collection[str]) -> float:
        """The FLOPs of a budget, a FLOP density, less those of layers that this update leaves alone."""
        total = sum(self.per_weight[name] * weight.numel for name, weight in weights.items())
        others = (weight for name, weight in weights.items() if name not in updated)
        return budget * total - sum(self.per_weight[weight.name] * weight.active for weight in others)

    def close(self) -> None:
        if self._meter is not None:
            self._meter.close()
