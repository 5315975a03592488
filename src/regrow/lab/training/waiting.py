"""Waiting: what an iterator costs the one who takes from it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

__all__ = ["Waiting"]

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
