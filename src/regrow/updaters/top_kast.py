"""Top-KAST: always sparse forward, and sparse but wider backward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regrow.optimizers.entering import entering_means, state_of
from regrow.topology.distributions import initial_counts
from regrow.weights.base import per_element_state

from .shadow_weights import ShadowWeightUpdater, largest_mask

__all__ = ["TopKAST"]


class TopKAST(ShadowWeightUpdater):
    """Top-KAST (Jayakumar et al. 2020, arXiv:2106.03517, section 2 and algorithm 1).

    In each layer the weights of largest magnitude are active: the set A, of the given density. Gradients reach these
    and the next largest ones, the set B; all others do not change. An update chooses both sets again among all values.
    A penalty on B makes weights that are not in A shrink faster, so that others can overtake them.

    Args:
        model: `sparsify(model, 1.0, storage="masked")`; the sets are those of its values from the start.
        optimizer: any whose steps leave elements with gradient 0 independent of others.
        total_steps: optimizer steps T of the whole training; after it the sets stay as they are.
        update_every: optimizer steps between updates, 1 to T (the paper: up to 100); None: by hand, with `update()`.
        density: density D of the forward pass, in (0, 1).
        backward_density: density of the set B, from `density` to 1; None: twice `density`, at most 1.
        penalty: factor of |w|^2 / 2 over A, and of |w|^2 / (2 D) over the rest of B; at least 0.

    Raises:
        ValueError: the model is in compressed storage, a value is out of range, or as `ComposedUpdater`; nothing is
            changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 1.0, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.TopKAST(model, optimizer, total_steps=54_000, update_every=100, density=0.05)
        >>> regrow.summary(model).active
        1191
    """

    method = "top-kast"
    starts_dense = True
    updates = 500

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        density: float,
        backward_density: float | None = None,
        penalty: float = 1e-4,
    ):
        wider = min(2 * density, 1.0) if backward_density is None else backward_density
        if not 0 < density < 1:
            raise ValueError(f"density={density} must be between 0 and 1")
        if not density <= wider <= 1:
            raise ValueError(f"backward_density={wider} must be between density={density} and 1")
        if not penalty >= 0:
            raise ValueError(f"penalty={penalty} must be at least 0")
        super().__init__(model, optimizer, total_steps=total_steps, update_every=update_every)
        shapes = [weight.shape for weight in self._weights.values()]
        self._active = dict(zip(self._weights, initial_counts(shapes, density), strict=True))
        self._trainable = dict(zip(self._weights, initial_counts(shapes, wider), strict=True))
        self._density, self._penalty = density, penalty
        self._trained: dict[str, Tensor] = {}
        sets = self._active_after_update(self._shadow, {})
        for name, hidden in list(self._shadow.items()):
            self._show(name, sets[name], hidden.clone())
        self._attach()
        for name, collector in self._gradients.items():
            collector.tap.need(self._trainable[name])

    def _active_after_update(self, values: Mapping[str, Tensor], active: Mapping[str, Tensor]) -> dict[str, Tensor]:
        before = self._trained
        self._trained = {
            name: largest_mask(v.abs(), max(self._trainable[name], self._active[name])) for name, v in values.items()
        }
        for name, trained in self._trained.items():
            if name in before:
                self._forget(name, trained, before[name])
        return {name: largest_mask(v.abs(), self._active[name]) for name, v in values.items()}

    def _forget(self, name: str, trained: Tensor, before: Tensor) -> None:
        """Optimizer state 0 for weights that gradients reach no more; again: with the mean of second moments."""
        weight = self._masked()[name]
        state = per_element_state(weight.parameter, state_of(self._optimizers, weight))
        means = entering_means(self.optimizer, weight, before.reshape(-1).nonzero().squeeze(1))
        for key, value in state.items():
            value.masked_fill_(~(trained & before), 0)
            if key in means:
                value.masked_fill_(trained & ~before, means[key])

    def _gradient(self, name: str, gradient: Tensor, values: Tensor, scale: float) -> Tensor:
        active, penalty = self._masked()[name].mask, scale * self._penalty
        shrinking = torch.where(active, penalty, penalty / self._density)
        return torch.where(self._trained[name], gradient + shrinking.to(values.dtype) * values, 0)

    def _after(self, name: str, before: Tensor, after: Tensor) -> Tensor:
        return torch.where(self._trained[name], after, before)

    def _own_state(self) -> dict[str, Any]:
        return {"trained": dict(self._trained)}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        self._trained = {name: trained.to(self._shadow[name].device) for name, trained in state["trained"].items()}
