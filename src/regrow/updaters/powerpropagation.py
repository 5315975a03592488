"""Powerpropagation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import regrow.criteria as criteria
from regrow.optimizers.hooks import nested, was_skipped
from regrow.redistribution import to_density
from regrow.schedules import cubic_density

from .composed import ComposedUpdater
from .final_density import final_step, never

__all__ = ["Powerpropagation"]


class Powerpropagation(ComposedUpdater):
    """Powerpropagation (Schwarz et al. 2021, arXiv:2110.00296, section 3), with gradual magnitude pruning.

    The optimizer trains phi, with w = phi |phi|^(alpha - 1): in a step the weight is exchanged for its phi and the
    gradient for dL/dphi = dL/dw * alpha |phi|^(alpha - 1), so that large weights move more than small ones and pruning
    by magnitude takes less. Between steps the model has its ordinary weights. It starts dense; the density falls as in
    `GMP`.

    Args:
        model: `sparsify(model, 1.0, storage="masked")`.
        optimizer: any but LBFGS and wrappers; its weight decay and momentum are those of phi.
        total_steps: optimizer steps T of the whole training; after it nothing is pruned.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`.
        density: final density, in (0, 1).
        alpha: power, at least 1; 1 is GMP.
        begin: fraction of T at which the density starts to fall, 0 <= begin < end < 1.
        end: fraction of T at which the density stops falling.
        scope: "local" or "global", see `GMP`.

    Raises:
        ValueError: the optimizer is wrapped or LBFGS, or as `GMP`; nothing is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 1.0, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.Powerpropagation(model, optimizer, total_steps=54_000, update_every=540, density=0.05)
    """

    method = "powerpropagation"
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
        alpha: float = 2.0,
        begin: float = 0.0,
        end: float = 0.75,
        scope: str = "local",
    ):
        if not alpha >= 1:
            raise ValueError(f"alpha={alpha} must be at least 1")
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError(
                "Powerpropagation exchanges weights for a step, but LBFGS evaluates the model several times in a step; "
                "use SGD or Adam"
            )
        if len(nested(optimizer)) > 1:
            raise ValueError(
                f"Powerpropagation exchanges weights for a step, but {type(optimizer).__name__} wraps another "
                "optimizer and may keep copies of them; use the optimizer inside"
            )
        last = final_step(model, density, total_steps, update_every, end)
        self._alpha = alpha
        self._kept: dict[str, Tensor] = {}
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=never,
            prune=criteria.magnitude,
            target=to_density(cubic_density(1.0, density, begin * total_steps, last), scope),
            grow=None,
            seed=0,
        )

    @torch.no_grad()
    def _before_step(self) -> None:
        super()._before_step()
        for name, weight in self._weights.items():
            parameter = weight.parameter
            self._kept[name] = parameter.detach().clone()
            phi = parameter.sign() * parameter.abs() ** (1 / self._alpha)
            parameter.copy_(phi)
            if parameter.grad is not None:
                parameter.grad.mul_(self._alpha * phi.abs() ** (self._alpha - 1))

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        skipped = was_skipped(optimizer)
        for name, kept in self._kept.items():
            phi = self._weights[name].parameter
            phi.copy_(kept if skipped else phi * phi.abs() ** (self._alpha - 1))
        self._kept = {}
        super()._after_step(optimizer, args, kwargs)
