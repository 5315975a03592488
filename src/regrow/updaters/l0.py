"""L0 regularisation by hard concrete gates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from regrow.weights import SparseWeight

from .noisy import NoisyUpdater

__all__ = ["L0"]

_BETA, _GAMMA, _ZETA = 2 / 3, -0.1, 1.1  # the paper's


class L0(NoisyUpdater):
    """L0 regularisation by hard concrete gates (Louizos et al. 2018, arXiv:1712.01312, section 2.2).

    Starts dense. Each weight is w = theta * z with z = min(1, max(0, s (zeta - gamma) + gamma)) and s =
    sigmoid((log u - log(1 - u) + log_alpha) / beta), u uniform, drawn in each step; in evaluation s is
    sigmoid(log_alpha). The loss has the term penalty * sum of P(z > 0) = sigmoid(log_alpha - beta log(-gamma / zeta)).
    Then the weights of largest log_alpha stay, as many as the density says; their gates are multiplied in, and they
    train on without noise.

    Args:
        model: `sparsify(model, 1.0, storage="masked")`; not compiled.
        optimizer: any but LBFGS; it trains theta.
        total_steps: optimizer steps T of the whole training.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`.
        density: final density of each layer, in (0, 1).
        penalty: lambda for each weight, at least 0; the paper has 0.1 over the number of training images.
        drop_rate: share of closed gates at the start, in (0, 1).
        end: fraction of T at which weights are pruned; the first update at or after it does.
        seed: seed of the noise; None draws one from torch's global generator.

    Raises:
        ValueError: as `ContinuousSparsification`; nothing is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 1.0, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> updater = regrow.L0(model, optimizer, total_steps=54_000, update_every=540, density=0.05, seed=0)
    """

    method = "l0"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        density: float,
        penalty: float = 2e-6,
        drop_rate: float = 0.5,
        end: float = 0.75,
        seed: int | None = None,
    ):
        if not penalty >= 0:
            raise ValueError(f"penalty={penalty} must be at least 0")
        if not 0 < drop_rate < 1:
            raise ValueError(f"drop_rate={drop_rate} must be between 0 and 1")
        self._penalty, self._drop_rate = penalty, drop_rate
        super().__init__(
            model, optimizer, total_steps=total_steps, update_every=update_every, density=density, end=end, seed=seed
        )

    def _first_gate(self, weight: SparseWeight) -> Tensor:
        odds = math.log(1 - self._drop_rate) - math.log(self._drop_rate)
        return torch.full_like(weight.parameter.detach(), odds)

    def _noise_of(self, uniform: Tensor) -> Tensor:
        return uniform.logit()

    def _soft(self, name: str) -> Tensor:
        return torch.sigmoid((self._noise[name] + self._gates[name]) / _BETA)

    def _drawn(self, name: str, theta: Tensor) -> Tensor:
        return theta * _hard(self._soft(name))

    def _gated(self, name: str, theta: Tensor) -> Tensor:
        return theta * _hard(torch.sigmoid(self._gates[name]))

    def _slopes_of(self, name: str, gradient: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        soft = self._soft(name)
        gate = _hard(soft)
        inside = (gate > 0) & (gate < 1)
        slope = torch.where(inside, (_ZETA - _GAMMA) * soft * (1 - soft) / _BETA, 0)
        is_open = torch.sigmoid(self._gates[name] - _BETA * math.log(-_GAMMA / _ZETA))
        return gradient * gate, gradient * theta * slope + self._penalty * is_open * (1 - is_open)

    def _score(self, name: str, theta: Tensor) -> Tensor:
        return self._gates[name]


def _hard(soft: Tensor) -> Tensor:
    return (soft * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)
