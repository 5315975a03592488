"""Published test errors to be seen beside one's own; copies of public figures, each with its source."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

__all__ = ["PublishedPoint", "published_points", "sources"]


@dataclass(frozen=True)
class PublishedPoint:
    """One published figure.

    Attributes:
        method: as in a leaderboard.
        density: as in a leaderboard.
        settings: those that an analysis varied, else empty.
        error: test error in percent.
        se: its standard error over seeds, None if the source has none.
        source: source of the figure.
    """

    method: str
    density: float
    settings: Mapping[str, Any]
    error: float
    se: float | None
    source: str


@cache
def _tables() -> dict[str, Any]:
    return json.loads((resources.files(__package__) / "published.json").read_text(encoding="utf-8"))


def published_points(recipe: str) -> list[PublishedPoint]:
    """The published figures of a recipe, or an empty list. If two sources have the same figure, the first.

    Example:
        >>> [point.error for point in published_points("lenet300-mnist") if point.method == "dense"]
        [1.34]
    """
    table = _tables().get(recipe, {"points": []})
    found: dict[Any, PublishedPoint] = {}
    for entry in table["points"]:
        key = (entry["method"], entry["density"], tuple(sorted(entry["settings"].items())))
        point = PublishedPoint(**{**entry, "source": table["sources"][entry["source"]]})
        found.setdefault(key, point)
    return list(found.values())


def sources(points: Iterable[PublishedPoint]) -> list[str]:
    """Returns where points are from, each source once."""
    return list(dict.fromkeys(point.source for point in points))
