"""Sparse variational dropout."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from regrow.weights import SparseWeight

from .noisy import NoisyUpdater

__all__ = ["SparseVD"]

_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695  # of the approximation of the divergence, equation 14


class SparseVD(NoisyUpdater):
    """Sparse variational dropout (Molchanov et al. 2017, arXiv:1701.05369, section 4).

    Starts dense. Each weight is drawn in each step, w = theta + sigma * noise, and both are trained; in evaluation it
    is theta. With log alpha = log(sigma^2 / theta^2), the loss has the term penalty * sum of KL, where -KL =
    k1 sigmoid(k2 + k3 log alpha) - log(1 + 1 / alpha) / 2 - k1. Then the weights of smallest alpha stay, as many as the
    density says, and train on without noise.

    Args:
        model: `sparsify(model, 1.0, storage="masked")`; not compiled.
        optimizer: any but LBFGS; it trains theta.
        total_steps: optimizer steps T of the whole training.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`.
        density: final density of each layer, in (0, 1).
        penalty: weight of the divergence, at least 0; the variational bound has 1 over the number of training examples.
        initial: log sigma^2 at the start.
        end: fraction of T at which weights are pruned; the first update at or after it does.
        seed: seed of the noise; None draws one from torch's global generator.

    Raises:
        ValueError: as `ContinuousSparsification`; nothing is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 1.0, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> updater = regrow.SparseVD(model, optimizer, total_steps=54_000, update_every=540, density=0.05, seed=0)
    """

    method = "sparse-vd"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        density: float,
        penalty: float = 2e-5,
        initial: float = -10.0,
        end: float = 0.75,
        seed: int | None = None,
    ):
        if not penalty >= 0:
            raise ValueError(f"penalty={penalty} must be at least 0")
        if not math.isfinite(initial):
            raise ValueError(f"initial={initial} must be finite")
        self._penalty, self._initial = penalty, initial
        super().__init__(
            model, optimizer, total_steps=total_steps, update_every=update_every, density=density, end=end, seed=seed
        )

    def _first_gate(self, weight: SparseWeight) -> Tensor:
        return torch.full_like(weight.parameter.detach(), self._initial)

    def _noise_of(self, uniform: Tensor) -> Tensor:
        return torch.special.ndtri(uniform)

    def _drawn(self, name: str, theta: Tensor) -> Tensor:
        return theta + (self._gates[name] / 2).exp() * self._noise[name]

    def _gated(self, name: str, theta: Tensor) -> Tensor:
        return theta

    def _log_alpha(self, name: str, theta: Tensor) -> Tensor:
        return self._gates[name] - 2 * theta.abs().clamp(min=1e-8).log()

    def _slopes_of(self, name: str, gradient: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = self._log_alpha(name, theta)
        rise = torch.sigmoid(_K2 + _K3 * log_alpha)
        # of the divergence, by log alpha: it falls as the noise drowns the weight
        slope = -self._penalty * (_K1 * _K3 * rise * (1 - rise) + 0.5 * torch.sigmoid(-log_alpha))
        spread = (self._gates[name] / 2).exp()
        of_theta = torch.where(theta.abs() > 1e-8, -2 / theta, 0) * slope
        return gradient + of_theta, gradient * self._noise[name] * spread / 2 + slope

    def _score(self, name: str, theta: Tensor) -> Tensor:
        return -self._log_alpha(name, theta)
