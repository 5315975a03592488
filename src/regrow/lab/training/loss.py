"""The loss that all recipes train with, and its sum over an epoch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LossSum", "mean_loss"]


def mean_loss(outputs: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross entropy in nats, mean over all labels.

    Args:
        outputs: (N, C), or of sequences (N, T, C).
        labels: (N,), or of sequences (N, T).
        smoothing: share of each label that is spread evenly over all classes.
    """
    return F.cross_entropy(outputs.flatten(0, -2), labels.flatten(), label_smoothing=smoothing)


class LossSum:
    """Sums up losses on the device without waiting for it, and knows at which step the sum stopped being finite.

    Attributes:
        total: the sum so far, ().

    Args:
        before: the sum of the epoch's steps before `step`.
        step: optimizer steps done.

    Example:
        >>> losses = LossSum(0.0, 40, torch.device("cpu"))
        >>> for loss in (2.0, math.nan, 1.0):
        ...     losses.add(torch.tensor(loss), examples=32)
        >>> losses.lost_step
        42
    """

    def __init__(self, before: float, step: int, device: torch.device):
        # Float64 holds such sums exactly, so that ranks go on from their mean to the same bits; MPS has none.
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.total = torch.tensor(before, device=device, dtype=exact)
        self._finite_steps = torch.tensor(step, device=device)

    def add(self, loss: Tensor, examples: int) -> None:
        """Adds the mean loss of the next step's examples."""
        self.total.add_(loss, alpha=examples)
        self._finite_steps.add_(self.total.isfinite())

    @property
    def lost_step(self) -> int | None:
        """The first step, from 1, whose loss is not finite; None: all are."""
        return None if math.isfinite(self.total) else int(self._finite_steps) + 1
