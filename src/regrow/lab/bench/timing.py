"""Timing contestants in turn, so that whatever disturbs the machine disturbs all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from regrow import ops
from regrow.lab.errors import RunError
from regrow.lab.machine import processor

__all__ = ["CLOCKS", "Step", "bench_place", "noise", "times_in_turn", "working"]

Step = Callable[[], Any]
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@contextmanager
def bench_place(threads: int | None) -> Iterator[dict[str, Any]]:
    """Meanwhile torch has so many threads (None: as many as before); gives what a row says of where it was measured.

    The allocator keeps its pages from then on: both sides the same, and neither pays for page faults.
    """
    ops.keep_pages()
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield {
            **{key: ops.info()[key] for key in ("isa", "torch", "allocator")},
            "processor": processor(),
            "clock": "wall",
        }
    finally:
        torch.set_num_threads(before)


def times_in_turn(
    steps: Mapping[str, Step], seconds: float, clock: str = "wall", rounds: int = 5
) -> dict[str, list[float]]:
    """Milliseconds of one call a round of each contestant, until each could have had its time.

    An untimed call of the same contestant comes before: threads that still spin for the one before it (torch.compile
    brings a pool of its own) and its caches would cost the next one up to a millisecond.

    Args:
        steps: contestants by name, warmed up.
        seconds: time of each contestant.
        rounds: at least so many.
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
    """Returns contestants that can run, warmed up, and why others cannot. Raises RunError for the sparse one."""
    good, bad = {}, {}
    for name, step in steps.items():
        try:
            for _ in range(3):
                step()
            good[name] = step
        except Exception as error:
            bad[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    if "sparse" in bad:
        raise RunError(f"the sparse contestant failed, so there is nothing to compare with: {bad['sparse']}")
    return good, bad
