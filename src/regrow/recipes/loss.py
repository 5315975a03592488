"""The loss that all recipes train with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["mean_loss"]


def mean_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy in nats, mean over all labels; outputs (N, C) with labels (N,), or (N, T, C) with (N, T)."""
    return F.cross_entropy(outputs.flatten(0, -2), labels.flatten())
