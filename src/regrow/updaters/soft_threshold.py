"""Soft threshold reparametrisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regrow.weights import SparseWeight

from .gated import GatedUpdater

__all__ = ["STR"]


class STR(GatedUpdater):
    """Soft threshold weight reparametrisation (Kusupati et al. 2020, arXiv:2002.03231, section 3).

    Starts dense. Each layer has a learned threshold sigmoid(s), and w = sign(theta) * max(|theta| - sigmoid(s), 0). s
    is trained with the loss and decays towards 0, which raises the threshold. Then the weights of largest |theta| stay,
    as many as the density says, with the values that they have, and train on.

    Args:
        model: `sparsify(model, 1.0, storage="masked")`.
        optimizer: any but LBFGS; it trains theta.
        total_steps: optimizer steps T of the whole training.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`.
        density: final density of each layer, in (0, 1).
        initial: s at the start, below 0; the paper has -200 to -3,200 for long trainings.
        decay: weight decay of s, at least 0; the paper has that of the weights.
        end: fraction of T at which weights are pruned; the first update at or after it does.

    Raises:
        ValueError: as `ContinuousSparsification`; nothing is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 1.0, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> updater = regrow.STR(model, optimizer, total_steps=54_000, update_every=540, density=0.05)
    """

    method = "str"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        density: float,
        initial: float = -8.0,
        decay: float = 5e-4,
        end: float = 0.75,
    ):
        if not initial < 0:
            raise ValueError(f"initial={initial} must be below 0")
        if not decay >= 0:
            raise ValueError(f"decay={decay} must be at least 0")
        self._initial, self._decay = initial, decay
        super().__init__(model, optimizer, total_steps=total_steps, update_every=update_every, density=density, end=end)

    def _first_gate(self, weight: SparseWeight) -> Tensor:
        return weight.parameter.new_full((), self._initial).detach()

    def _gated(self, name: str, theta: Tensor) -> Tensor:
        return theta.sign() * (theta.abs() - torch.sigmoid(self._gates[name])).clamp(min=0)

    def _slopes_of(self, name: str, gradient: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        gate = self._gates[name]
        threshold = torch.sigmoid(gate)
        passed = torch.where(theta.abs() > threshold, gradient, 0)
        slope = -(passed * theta.sign()).sum() * threshold * (1 - threshold)
        return passed, slope + self._decay * gate

    def _score(self, name: str, theta: Tensor) -> Tensor:
        return theta.abs()
