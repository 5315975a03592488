"""Dynamic network surgery: prune, and splice what was pruned too much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regrow.distributed import same_generator
from regrow.schedules import cubic_density
from regrow.topology.distributions import initial_counts
from regrow.topology.random import seeded_generator

from .final_density import final_step
from .shadow_weights import ShadowWeightUpdater, largest_mask

__all__ = ["DNS"]


class DNS(ShadowWeightUpdater):
    """Dynamic network surgery (Guo et al. 2016, arXiv:1608.04493, sections 3.1 and 3.2).

    Starts dense. At an update each layer keeps its largest weights. That includes inactive ones, whose shadow weights
    train on with the gradient of the sparse network. An inactive weight must be larger than an active one by `margin`
    to replace it. The density falls as a cubic; once it has its final value, an update happens with a probability that
    falls as 1 / (1 + decay * step).

    Args:
        model: `sparsify(model, 1.0, storage="masked")`.
        optimizer: any.
        total_steps: optimizer steps T of the whole training; after it nothing changes.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`.
        density: final density, in (0, 1).
        margin: ratio b / a of the paper's two thresholds, at least 1.
        decay: decay of the probability of an update, at least 0.
        begin: fraction of T at which the density starts to fall, 0 <= begin < end < 1.
        end: fraction of T at which the density stops falling.
        seed: seed of the skipped updates; None draws one from torch's global generator.

    Raises:
        ValueError: the model is in compressed storage, a value is out of range, or as `GMP`; nothing is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 1.0, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.DNS(model, optimizer, total_steps=54_000, update_every=540, density=0.05, seed=0)
    """

    method = "dns"
    starts_dense = True
    updates = 5_000

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        density: float,
        margin: float = 1.1 / 0.9,
        decay: float = 1e-4,
        begin: float = 0.0,
        end: float = 0.5,
        seed: int | None = None,
    ):
        if not margin >= 1:
            raise ValueError(f"margin={margin} must be at least 1")
        if not decay >= 0:
            raise ValueError(f"decay={decay} must be at least 0")
        self._last = final_step(model, density, total_steps, update_every, end)
        self._falling = cubic_density(1.0, density, begin * total_steps, self._last)
        super().__init__(model, optimizer, total_steps=total_steps, update_every=update_every)
        self._margin, self._decay = margin, decay
        self._reached = False
        self._generator = same_generator(seeded_generator(seed), self._device)
        self._attach()

    def _active_after_update(
        self, values: Mapping[str, Tensor], active: Mapping[str, Tensor]
    ) -> dict[str, Tensor] | None:
        if self._reached:
            chance = 1 / (1 + self._decay * self.step)
            if float(torch.rand((), generator=self._generator, dtype=torch.float64)) >= chance:
                return None
        self._reached = self.step >= self._last
        counts = initial_counts([v.shape for v in values.values()], self._falling(self.step))
        scores = {name: torch.where(active[name], v.abs() * self._margin, v.abs()) for name, v in values.items()}
        return {name: largest_mask(s, count) for (name, s), count in zip(scores.items(), counts, strict=True)}

    def _own_state(self) -> dict[str, Any]:
        return {"reached": self._reached, "generator": self._generator.get_state()}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        self._reached = state["reached"]
        self._generator.set_state(state["generator"].cpu())
