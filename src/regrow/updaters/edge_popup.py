"""Edge-popup: a mask is learned, and the weights stay as they were drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regrow.distributed import same_generator
from regrow.topology.distributions import initial_counts
from regrow.topology.random import seeded_generator

from .shadow_weights import ShadowWeightUpdater, largest_mask

__all__ = ["EdgePopup"]


class EdgePopup(ShadowWeightUpdater):
    """Edge-popup: supermasks of untrained weights (Ramanujan et al. 2020, arXiv:1911.13299, section 3).

    Each weight has a score s, and those with the largest |s| of their layer are active. The optimizer trains the scores
    with dL/ds = w * dL/dw of all positions, as if the choice passed gradients on, and no sparse weight. (Biases, norms
    and dense layers are trained as ever; the paper has none.)

    Args:
        model: `sparsify(model, 1.0, storage="masked")`; its weights are the fixed ones.
        optimizer: any; its learning rate, momentum and weight decay are those of the scores.
        total_steps: optimizer steps T of the whole training.
        update_every: optimizer steps between choices of the active weights, 1 to T (the paper: 1); None: by hand.
        density: share of active weights of each layer, in (0, 1).
        signed: replace weights by their sign times (2 / (fan_in * density))^1/2, the paper's scaled "signed Kaiming
            constant".
        seed: seed of the scores, uniform in +-fan_in^-1/2; None draws one from torch's global generator.

    Raises:
        ValueError: the model is in compressed storage, or a value is out of range; nothing is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 1.0, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> updater = regrow.EdgePopup(model, optimizer, total_steps=54_000, update_every=1, density=0.5, seed=0)
    """

    method = "edge-popup"
    starts_dense = True
    updates = math.inf

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        density: float,
        signed: bool = True,
        seed: int | None = None,
    ):
        if not 0 < density < 1:
            raise ValueError(f"density={density} must be between 0 and 1")
        super().__init__(model, optimizer, total_steps=total_steps, update_every=update_every)
        counts = initial_counts([weight.shape for weight in self._weights.values()], density)
        self._counts = dict(zip(self._weights, counts, strict=True))
        self._fixed = {name: values.clone() for name, values in self._shadow.items()}
        generator = same_generator(seeded_generator(seed), self._device)
        for name, weight in self._weights.items():
            fan_in = weight.numel // weight.shape[0]
            drawn = torch.rand(weight.shape, generator=generator, dtype=torch.float64) * 2 - 1
            self._shadow[name].copy_(drawn * fan_in**-0.5)
            if signed:
                self._fixed[name].sign_().mul_((2 / (fan_in * density)) ** 0.5)
        chosen = self._active_after_update(self._shadow, {})
        for name, scores in list(self._shadow.items()):
            self._show(name, chosen[name], scores.clone())
        self._attach()

    def _values(self, name: str) -> Tensor:
        return self._shadow[name]

    def _shown(self, name: str, values: Tensor) -> Tensor:
        return self._fixed[name]

    def _gradient(self, name: str, gradient: Tensor, values: Tensor, scale: float) -> Tensor:
        return gradient * self._fixed[name]

    def _active_after_update(self, values: Mapping[str, Tensor], active: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: largest_mask(scores.abs(), self._counts[name]) for name, scores in values.items()}

    def _own_state(self) -> dict[str, Any]:
        return {"fixed": dict(self._fixed), "active": {name: w.mask.clone() for name, w in self._masked().items()}}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        for name, values in self._fixed.items():
            values.copy_(state["fixed"][name])
            # the constructor has chosen by other scores
            self._show(name, state["active"][name].to(values.device), self._shadow[name].clone())
