"""Explicit random generators."""

from __future__ import annotations

import torch

__all__ = ["seeded_generator"]


def seeded_generator(seed: int | None) -> torch.Generator:
    """A CPU generator; without a seed its seed is drawn from torch's global generator."""
    if seed is None:
        seed = int(torch.randint(2**62, (1,), dtype=torch.int64))
    return torch.Generator().manual_seed(seed)
