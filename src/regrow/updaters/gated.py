"""Gated weights: a network computes with w = f(theta, s), both are trained, and s says at last which weights stay."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regrow.optimizers.hooks import was_skipped
from regrow.topology.distributions import initial_counts
from regrow.weights import SparseWeight

from .final_density import final_step
from .shadow_weights import ShadowWeightUpdater, largest_mask

__all__ = ["GatedUpdater"]


class GatedUpdater(ShadowWeightUpdater):
    """An updater whose weights have gates until the first update at or after `end`, which prunes.

    The optimizer trains theta, which takes the weight's place for the step; gates are trained here by gradient descent
    with the momentum and the learning rate of the weight's parameter group. Between steps the model has w.

    Args:
        model: as in `GMP`.
        optimizer: as in `GMP`.
        total_steps: as in `GMP`.
        update_every: as in `GMP`.
        density: final density of each layer, in (0, 1).
        end: fraction of T at which weights are pruned.
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
    ):
        self._last = final_step(model, density, total_steps, update_every, end)
        super().__init__(model, optimizer, total_steps=total_steps, update_every=update_every)
        counts = initial_counts([weight.shape for weight in self._weights.values()], density)
        self._counts = dict(zip(self._weights, counts, strict=True))
        self._gates = {name: self._first_gate(weight) for name, weight in self._weights.items()}
        self._speed = {name: torch.zeros_like(gate) for name, gate in self._gates.items()}
        self._slopes: dict[str, Tensor] = {}
        self._folded: dict[str, Tensor] = {}
        self._has_gates = True
        self._shown_at = 0
        self._show_all()
        self._attach()

    @abstractmethod
    def _first_gate(self, weight: SparseWeight) -> Tensor:
        """The gate parameters of a weight at the start."""

    @abstractmethod
    def _gated(self, name: str, theta: Tensor) -> Tensor:
        """Returns w."""

    @abstractmethod
    def _slopes_of(self, name: str, gradient: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of theta and of the gate, with its penalty, from that of w."""

    @abstractmethod
    def _score(self, name: str, theta: Tensor) -> Tensor:
        """Scores of all positions; the largest stay."""

    @property
    def _progress(self) -> float:
        """Share of the way to the pruning that the shown weights have made, 0 to 1."""
        return min(self._shown_at / max(self._last, 1), 1.0)

    def _values(self, name: str) -> Tensor:
        return self._shadow[name]

    def _shown(self, name: str, values: Tensor) -> Tensor:
        return self._gated(name, values) if self._has_gates else values

    def _gradient(self, name: str, gradient: Tensor, values: Tensor, scale: float) -> Tensor:
        if not self._has_gates:
            return gradient
        own, self._slopes[name] = self._slopes_of(name, gradient / scale, values)
        return own * scale

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if not was_skipped(optimizer):
            for name, slope in self._slopes.items():
                group = self._group(name)
                speed = self._speed[name].mul_(group.get("momentum", 0.9)).add_(slope)
                self._gates[name].sub_(float(group["lr"]) * speed)
            self._shown_at = self.step + 1
        self._slopes = {}
        super()._after_step(optimizer, args, kwargs)

    def _active_after_update(
        self, values: Mapping[str, Tensor], active: Mapping[str, Tensor]
    ) -> dict[str, Tensor] | None:
        if self.step < self._last or not self._has_gates:
            return None
        chosen = {name: largest_mask(self._score(name, v), self._counts[name]) for name, v in values.items()}
        self._folded = {name: self._gated(name, theta) for name, theta in values.items()}
        self._has_gates = False
        return chosen

    def _show(self, name: str, chosen: Tensor, values: Tensor) -> dict[str, Any]:
        return super()._show(name, chosen, self._folded.pop(name, values))

    @torch.no_grad()
    def _show_all(self) -> None:
        for name, weight in self._masked().items():
            weight.parameter.copy_(self._shown(name, self._shadow[name]))
            weight.enforce()

    def _own_state(self) -> dict[str, Any]:
        return {"gates": dict(self._gates), "speed": dict(self._speed), "has_gates": self._has_gates}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        for part, own in (("gates", self._gates), ("speed", self._speed)):
            for name, tensor in own.items():
                tensor.copy_(state[part][name])
        self._has_gates, self._shown_at = state["has_gates"], self.step
        self._show_all()  # the constructor has shown others
