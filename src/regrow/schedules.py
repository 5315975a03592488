"""Schedules: pure functions from step to prune rate or density, checked when you make them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

__all__ = [
    "SCHEDULES",
    "Schedule",
    "cosine_decay",
    "cubic_density",
    "piecewise",
    "prune_rate_schedule",
    "sigmoid_density",
    "step_at",
]

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
    """The prune rate at each optimizer step: the fraction of a layer's active weights that an update prunes.

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


def step_at(fraction: float, total_steps: int) -> int:
    """The first step at or after a fraction of the training, whatever rounding did to the fraction.

    Args:
        fraction: fraction of the training, 0 to 1.
        total_steps: optimizer steps of the whole training.

    Example:
        >>> step_at(0.1 + 0.2, 10), step_at(0.3, 100), step_at(0.5, 5)
        (3, 30, 3)
    """
    return math.ceil(fraction * total_steps - 1e-9)


def cosine_decay(prune_rate: float, end: float) -> Schedule:
    """The prune rate of RigL: p0/2 (1 + cos(pi t/end)), 0 from step `end` on (arXiv:1911.11134, section 3).

    Args:
        prune_rate: p0, in [0, 1).
        end: a step, above 0.

    Example:
        >>> rate = cosine_decay(0.3, end=100)
        >>> rate(0), round(rate(50), 9), rate(100)
        (0.3, 0.15, 0.0)
    """
    if not 0 <= prune_rate < 1:
        raise ValueError(f"prune_rate={prune_rate} must be at least 0 and below 1")
    if not end > 0:
        raise ValueError(f"end={end} must be a step above 0")
    return lambda step: prune_rate * (1 + math.cos(math.pi * min(step / end, 1.0))) / 2


def piecewise(values: Mapping[float, float]) -> Schedule:
    """Constant from each step on until the next one.

    Args:
        values: first step -> value; one of the first steps is 0.

    Example:
        >>> rate = piecewise({0: 0.5, 90: 0.25})
        >>> rate(89), rate(90)
        (0.5, 0.25)
    """
    if not values or min(values) != 0:
        raise ValueError(f"values={dict(values)} must have an entry for step 0")
    return lambda step: values[max(first for first in values if first <= step)]


def sigmoid_density(initial: float, final: float, begin: float, end: float, steepness: float = 6.0) -> Schedule:
    """A density that falls as a sigmoid: slowly at both ends, and fastest in the middle (CHTss, arXiv:2501.19107).

    initial + (final - initial) * (s(k (2u - 1)) - s(-k)) / (s(k) - s(-k)), with s(x) = 1 / (1 + exp(-x)) and u the
    fraction of the way from `begin` to `end`.

    Args:
        initial: density at first, at most 1.
        final: density at the end, above 0 and at most `initial`.
        begin: step from which the density falls, at least 0.
        end: step at which it has `final`, above `begin`.
        steepness: k, above 0.

    Example:
        >>> density = sigmoid_density(1.0, 0.1, begin=0, end=100)
        >>> density(0), round(density(50), 9), density(100)
        (1.0, 0.55, 0.1)
    """
    if not 1 >= initial >= final > 0:
        raise ValueError(f"densities must fall from at most 1 to above 0, got initial={initial}, final={final}")
    if not 0 <= begin < end:
        raise ValueError(f"begin={begin} must be at least 0 and below end={end}")
    if not steepness > 0:
        raise ValueError(f"steepness={steepness} must be above 0")

    def density(step: int) -> float:
        way = min(max((step - begin) / (end - begin), 0.0), 1.0)
        if way in (0.0, 1.0):
            return (initial, final)[int(way)]
        risen = math.tanh(steepness * (2 * way - 1) / 2) / math.tanh(steepness / 2)  # from -1 to 1
        return initial + (final - initial) * (1 + risen) / 2

    return density


def cubic_density(initial: float, final: float, begin: float, end: float) -> Schedule:
    """The density of gradual pruning: final + (initial - final)(1 - (t - begin)/(end - begin))^3 between the two steps.

    Zhu & Gupta 2017, "To prune, or not to prune" (arXiv:1710.01878), equation 1, in densities.

    Args:
        initial: density at first, at most 1.
        final: density at the end, above 0 and at most `initial`.
        begin: step from which the density falls, at least 0.
        end: step at which it has `final`, above `begin`.

    Example:
        >>> density = cubic_density(1.0, 0.1, begin=0, end=100)
        >>> density(0), round(density(50), 9), density(100)
        (1.0, 0.2125, 0.1)
    """
    if not 1 >= initial >= final > 0:
        raise ValueError(f"densities must fall from at most 1 to above 0, got initial={initial}, final={final}")
    if not 0 <= begin < end:
        raise ValueError(f"begin={begin} must be at least 0 and below end={end}")

    def density(step: int) -> float:
        left = 1 - min(max((step - begin) / (end - begin), 0.0), 1.0)
        return final + (initial - final) * left**3

    return density
