"""Costs of a training step: FLOPs, and seconds of waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import regrow
from regrow.flops import step_flops

from .session import Session

__all__ = ["StepCost", "Waiting"]


class StepCost:
    """FLOPs of steps relative to dense ones; counted anew only where something has changed since the last step.

    Attributes:
        flop_density: FLOP density of the present topology, see `flops.flop_density`.
    """

    def __init__(self, session: Session):
        self._session = session
        self.topology_changed()

    def topology_changed(self) -> None:
        """Notes that active sets have moved, and weights may have come to another storage."""
        session = self._session
        self._weights = list(regrow.sparse_weights(session.model).values()) if session.updater else []
        self.flop_density = self._session.flop_density
        self._known: dict[tuple[bool, ...], float] = {}

    def step_flops(self) -> float:
        """Returns the cost of the next step, see `flops.step_flops`; 1 when dense."""
        if not self._weights:
            return 1.0
        collecting = tuple(weight.collecting for weight in self._weights)
        if collecting not in self._known:
            session = self._session
            self._known[collecting] = step_flops(session.model, session.flops, session.window_share)
        return self._known[collecting]


T = TypeVar("T")


class Waiting(Generic[T]):
    """The items of an iterable, and the seconds that were spent waiting for them.

    Example:
        >>> batches = Waiting(split.load(drawn))
        >>> for x, y in batches:
        ...     train_on(x, y)
        >>> batches.seconds
        0.4
    """

    def __init__(self, items: Iterable[T]):
        self._items = iter(items)
        self.seconds = 0.0

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        began = time.perf_counter()
        try:
            return next(self._items)
        finally:
            self.seconds += time.perf_counter() - began
