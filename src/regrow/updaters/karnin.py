"""Karnin's sensitivities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regrow.criteria import Layer

from .one_cut import OneCut

__all__ = ["Karnin"]


class Karnin(OneCut):
    """Sensitivities integrated over the training (Karnin 1990, "A simple procedure for pruning back-propagation").

    Starts dense. Each step adds -(dL/dw) * (change of w) to a sum for each weight. At `end` the sensitivity, how much
    the loss would rise without the weight, is estimated as S = sum * w / (w - w_0), with w_0 the weight at the start;
    the weights of smallest S are pruned, and what is left trains on.

    Args:
        model: `sparsify(model, 1.0, storage="masked")`.
        optimizer: any; the paper has SGD without momentum.
        total_steps: optimizer steps T of the whole training.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`.
        density: final density, in (0, 1).
        end: fraction of T at which weights are pruned; the first update at or after it does.
        scope: "local" (each layer has the density, as in the paper) or "global" (of all layers).

    Raises:
        ValueError: as `ComposedUpdater`, and if no update comes after `end`; nothing is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 1.0, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.Karnin(model, optimizer, total_steps=54_000, update_every=540, density=0.05)
    """

    method = "karnin"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        density: float,
        end: float = 0.75,
        scope: str = "local",
    ):
        self._first: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._before: dict[str, tuple[Tensor, Tensor]] = {}
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            density=density,
            end=end,
            scope=scope,
        )

    def _score(self, layer: Layer) -> Tensor:
        """S; 0 for weights that have not moved."""
        if layer.name not in self._sums:
            return layer.values.abs()
        weight = self._weights[layer.name]
        values, sums = layer.values.double(), weight.take(self._sums[layer.name]).double()
        moved = values - weight.take(self._first[layer.name]).double()
        return torch.where(moved == 0, 0.0, sums * values / torch.where(moved == 0, 1.0, moved))

    def _add(self, name: str, values: Tensor, gradient: Tensor, scale: float) -> None:
        if name not in self._first:
            self._first[name], self._sums[name] = values.clone(), torch.zeros_like(values)
        self._before[name] = values.clone(), gradient / scale

    def _stepped(self, name: str, values: Tensor) -> None:
        if name in self._before:
            before, gradient = self._before.pop(name)
            self._sums[name].addcmul_(gradient, values - before, value=-1)

    def update(self) -> list[dict[str, Any]]:
        rows = super().update()
        if not self._is_dense:  # nothing reads them any more
            self._first, self._sums, self._before = {}, {}, {}
        return rows

    def _own_state(self) -> dict[str, Any]:
        return {"first": dict(self._first), "sums": dict(self._sums)}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        self._first, self._sums = (
            {name: value.to(self._weights[name].parameter.device).clone() for name, value in state[part].items()}
            for part in ("first", "sums")
        )
