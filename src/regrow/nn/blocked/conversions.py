"""Who listens to conversions between the blocked layout and ordinary tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Conversion:
    """One activation that was converted.

    Attributes:
        into: whether into the blocked layout; False: out of it.
        operation: what asked for it, such as "flatten" or "aten.sigmoid.default".
        shape: (N, C, H, W).
    """

    into: bool
    operation: str
    shape: tuple[int, ...]


_logs: list[list[Conversion]] = []


@contextmanager
def recording() -> Iterator[list[Conversion]]:
    """A list to which every conversion in this process is appended, until the context ends.

    Example:
        >>> with recording() as conversions:
        ...     model(images)
        >>> [c.operation for c in conversions]
        ['SparseConv2d', 'flatten']
    """
    log: list[Conversion] = []
    _logs.append(log)
    try:
        yield log
    finally:
        _logs.remove(log)


def note(into: bool, operation: str, shape) -> None:
    """Tell whoever is recording."""
    for log in _logs:
        log.append(Conversion(into, operation, tuple(shape)))
