"""The gradient of the last step as what it can be had from at few positions, for growth among a sample of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regrow.distributed import is_distributed, mean_
from regrow.weights import SparseWeight, StagedGradient

__all__ = ["SampledGradient"]


class SampledGradient:
    """|g| at the positions that are asked for (a `topology.lazy.ProductGradient`), of the last step.

    Compressed storage keeps inputs and gradients of outputs, and multiplies them where it is asked; masked storage has
    the gradient of all positions from autograd.

    Args:
        weight: the layer.

    Attributes:
        rows: sums of |gradient| of each output, float64; of |g| of each row where the module does not show them.
        columns: sums of |input| of each column, or of |g|.
    """

    def __init__(self, weight: SparseWeight):
        self.weight = weight
        rows = weight.shape[0]
        self.rows = torch.zeros(rows, dtype=torch.float64, device=weight.parameter.device)
        self.columns = torch.zeros(weight.numel // rows, dtype=torch.float64, device=weight.parameter.device)
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._tensor: Tensor | None = None
        self._factor = 1.0

    def take(self, staged: StagedGradient, factor: float) -> None:
        """Becomes factor * the staged gradient; where the factor is 0, even infinities count as 0."""
        if factor == 0:
            return
        self._pairs, self._factor = list(staged.pairs), factor
        self._tensor = None if staged.tensor is None else staged.tensor * factor
        if staged.activity is not None:
            self.rows, self.columns = staged.activity
        elif self._tensor is not None:
            sizes = self._tensor.reshape(self.weight.shape[0], -1).abs()
            self.rows, self.columns = sizes.sum(1, dtype=torch.float64), sizes.sum(0, dtype=torch.float64)

    def average(self) -> None:
        """Makes it the mean over ranks; of compressed storage later, where it is asked for."""
        self.rows, self.columns = mean_(self.rows.clone()), mean_(self.columns.clone())
        if self.weight.keeps_parameter_shape:
            like = self.weight.parameter.detach()
            self._tensor = mean_(torch.zeros_like(like) if self._tensor is None else self._tensor)

    def at(self, positions: Tensor) -> Tensor:
        if self._tensor is not None:
            return self._tensor.take(positions).abs_()
        total = torch.zeros(positions.numel(), dtype=self.weight.parameter.dtype)
        for input, grad_output in self._pairs:
            total += self.weight.gradient_at(input, grad_output, positions)
        total *= self._factor
        return (mean_(total) if is_distributed() else total).abs_()

    def is_finite(self) -> bool:
        return all(math.isfinite(float(part.sum())) for part in (self.rows, self.columns))

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "columns": self.columns,
            "pairs": list(self._pairs),
            "tensor": self._tensor,
            "factor": self._factor,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        device = self.weight.parameter.device
        self.rows, self.columns = (state[name].to(device).clone() for name in ("rows", "columns"))
        self._pairs = [(input.clone(), grad_output.clone()) for input, grad_output in state["pairs"]]
        self._tensor = None if state["tensor"] is None else state["tensor"].to(device).clone()
        self._factor = state["factor"]
