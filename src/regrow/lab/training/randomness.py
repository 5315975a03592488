"""Independent streams of random numbers, so that drawing more of one thing never changes another."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

__all__ = ["generator", "rng_state", "set_rng_state"]


def generator(seed: int, *labels: object) -> torch.Generator:
    """A CPU generator that depends on the seed and the labels, and on nothing else.

    Example:
        >>> torch.equal(torch.randperm(9, generator=generator(0, "shuffle", 3)),
        ...             torch.randperm(9, generator=generator(0, "shuffle", 3)))
        True
    """
    digest = hashlib.sha256(repr((seed, *labels)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def rng_state() -> dict[str, Any]:
    """The state of torch's global generators, for a checkpoint."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
