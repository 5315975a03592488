"""Timing contestants in turn, so that whatever disturbs the machine disturbs all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["CLOCKS", "Step", "noise", "times_in_turn", "working"]

Step = Callable[[], Any]
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def times_in_turn(
    steps: Mapping[str, Step], seconds: float, clock: str = "wall", rounds: int = 5
) -> dict[str, list[float]]:
    """Milliseconds of one call a round of each contestant, until each could have had its time.

    An untimed call of the same contestant comes before: threads that still spin for the one before it (torch.compile
    brings a pool of its own) and its caches would cost the next one up to a millisecond.

    Args:
        steps: contestants by name, warmed up.
        seconds: time of each contestant. rounds: at least so many.
        clock: "wall", or "cpu": processor time of all threads.
    """
    now = CLOCKS[clock]
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds * len(steps)
    while time.perf_counter() < end or len(next(iter(times.values()))) < rounds:
        for name, step in steps.items():
            step()
            start = now()
            step()
            times[name].append((now() - start) * 1e3)
    return times


def noise(times: list[float]) -> float:
    """Distance of the quartiles over the median."""
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / middle


def working(steps: Mapping[str, Step]) -> tuple[dict[str, Step], dict[str, str]]:
    """Those that can run, warmed up; and of those that cannot, the reason."""
    good, bad = {}, {}
    for name, step in steps.items():
        try:
            for _ in range(3):
                step()
            good[name] = step
        except Exception as error:
            bad[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return good, bad
