"""The loss of an epoch, summed up on the device without waiting for it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["LossSum"]


class LossSum:
    """Sums up losses, and knows at which step the sum stopped being finite.

    Args:
        before: the sum of the epoch's steps before `step`. step: optimizer steps done.

    Example:
        >>> losses = LossSum(0.0, 40, torch.device("cpu"))
        >>> for loss in (2.0, math.nan, 1.0):
        ...     losses.add(torch.tensor(loss), examples=32)
        >>> losses.lost_step
        42
    """

    def __init__(self, before: float, step: int, device: torch.device):
        self._sum = torch.tensor(before, device=device)
        self._finite_steps = torch.tensor(step, device=device)

    def add(self, loss: Tensor, examples: int) -> None:
        """Adds the mean loss of the next step's examples."""
        self._sum.add_(loss, alpha=examples)
        self._finite_steps.add_(self._sum.isfinite())

    @property
    def sum(self) -> float:
        return self._sum.item()

    @property
    def lost_step(self) -> int | None:
        """The first step, from 1, whose loss is not finite; None: all are."""
        return None if math.isfinite(self.sum) else int(self._finite_steps) + 1
