"""Continuous sparsification."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regrow.weights import SparseWeight

from .gated import GatedUpdater

__all__ = ["ContinuousSparsification"]


class ContinuousSparsification(GatedUpdater):
    """Continuous sparsification (Savarese et al. 2020, arXiv:1912.04427, section 3 and algorithm 1).

    Starts dense. Each weight is w = theta * sigmoid(beta s) / sigmoid(s_0), and the loss has the term
    penalty * sum of sigmoid(beta s). beta rises from 1 to `temperature` as an exponential, until gates are nearly open
    or closed. Then the weights of largest s stay, as many as the density says; their gates are multiplied in, and they
    train on.

    Args:
        model: `sparsify(model, 1.0, storage="masked")`.
        optimizer: any but LBFGS; it trains theta.
        total_steps: optimizer steps T of the whole training.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`.
        density: final density of each layer, in (0, 1).
        penalty: lambda, at least 0; 1e-8 in the paper.
        initial: s_0; larger ones prune less by themselves.
        temperature: beta at the end, at least 1; 200 in the paper.
        end: fraction of T at which weights are pruned; the first update at or after it does.

    Raises:
        ValueError: the model is in compressed storage, a value is out of range, or no update comes after `end`; nothing
            is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 1.0, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> updater = regrow.ContinuousSparsification(
        ...     model, optimizer, total_steps=54_000, update_every=540, density=0.05
        ... )
    """

    method = "cs"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        density: float,
        penalty: float = 1e-8,
        initial: float = 0.0,
        temperature: float = 200.0,
        end: float = 0.75,
    ):
        if not penalty >= 0:
            raise ValueError(f"penalty={penalty} must be at least 0")
        if not temperature >= 1:
            raise ValueError(f"temperature={temperature} must be at least 1")
        self._penalty, self._initial, self._hottest = penalty, initial, temperature
        super().__init__(model, optimizer, total_steps=total_steps, update_every=update_every, density=density, end=end)

    def _first_gate(self, weight: SparseWeight) -> Tensor:
        return torch.full_like(weight.parameter.detach(), self._initial)

    @property
    def _beta(self) -> float:
        return self._hottest**self._progress

    def _open(self, name: str) -> Tensor:
        return torch.sigmoid(self._beta * self._gates[name])

    @property
    def _scale(self) -> float:
        return 1 / float(torch.sigmoid(torch.tensor(self._initial, dtype=torch.float64)))

    def _gated(self, name: str, theta: Tensor) -> Tensor:
        return theta * self._open(name) * self._scale

    def _slopes_of(self, name: str, gradient: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        is_open = self._open(name)
        slope = self._beta * is_open * (1 - is_open)
        return gradient * is_open * self._scale, (gradient * theta * self._scale + self._penalty) * slope

    def _score(self, name: str, theta: Tensor) -> Tensor:
        return self._gates[name]
