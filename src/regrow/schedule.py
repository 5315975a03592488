"""Prune-rate schedules: pure functions from step to rate, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["SCHEDULES", "Schedule", "prune_rate_schedule"]

Schedule = Callable[[int], float]

FINAL_COSINE_RATE = 0.005
"""The reference implementation's cosine ends here, not at 0."""


def _cosine(rate: float, progress: float) -> float:
    final = min(FINAL_COSINE_RATE, rate)
    return final + (rate - final) * (1 + math.cos(math.pi * progress)) / 2


def _linear(rate: float, progress: float) -> float:
    return rate * (1 - progress)


def _constant(rate: float, progress: float) -> float:
    return rate


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
}


def prune_rate_schedule(kind: str, prune_rate: float, total_steps: int) -> Schedule:
    """The prune rate at each optimizer step: the share of a layer's active weights that an update prunes.

    cosine: 0.005 + (p0 - 0.005)(1 + cos(pi t/T))/2 (for p0 < 0.005 it is constant); linear: p0 (1 - t/T); constant: p0
    (sparse momentum, arXiv:1907.04840, section 3.1 and the reference implementation).

    Args:
        kind: "cosine", "linear" or "constant".
        prune_rate: p0, in [0, 1).
        total_steps: T, in optimizer steps, at least 1.

    Example:
        >>> rate = prune_rate_schedule("linear", 0.5, total_steps=100)
        >>> rate(0), rate(50)
        (0.5, 0.25)
    """
    if kind not in SCHEDULES:
        raise ValueError(f"schedule={kind!r} is unknown; use one of {', '.join(SCHEDULES)}")
    if not 0 <= prune_rate < 1:
        raise ValueError(f"prune_rate={prune_rate} must be at least 0 and below 1")
    if total_steps < 1:
        raise ValueError(f"total_steps={total_steps} must be at least 1")
    return lambda step: SCHEDULES[kind](prune_rate, min(step / total_steps, 1.0))
