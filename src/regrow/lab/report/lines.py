"""Content of the plots of a leaderboard: rows joined to lines, and published points beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .leaderboard import Row, percent, varied
from .published import PublishedPoint, sources

__all__ = ["Line", "are_numbers", "cited", "join_rows", "named", "published_lines", "setting_lines", "within_reach"]


@dataclass(frozen=True)
class Line:
    """One line of a plot: label, and points (x, error, standard error or None) in the order of x."""

    label: str
    points: list[tuple[Any, float, float | None]]
    published: bool = False


def join_rows(
    rows: Sequence[Row],
    settings: Sequence[str],
    x: Callable[[Row], Any],
    with_density: bool = False,
    published: bool = False,
) -> list[Line]:
    """Rows with the same method and settings (and density) joined, the lines with the lowest first error first."""
    found: dict[str, list[tuple[Any, float, float | None]]] = {}
    for row in rows:
        changes = [f"{named(key)} {row[key]}" for key in settings if key in row]
        density = [percent(row["density"])] if with_density and row["method"] != "dense" else []
        label = ", ".join([row["method"], *density, *changes])
        found.setdefault(label, []).append((x(row), row["test_error_mean"], row["test_error_se"]))
    lines = []
    for label, points in found.items():
        ordered = sorted(points) if are_numbers(x for x, _, _ in points) else points
        lines.append(Line(label, ordered, published))
    return sorted(lines, key=lambda line: line.points[0][1])


def are_numbers(values: Iterable[Any]) -> bool:
    """Returns whether an axis can have them at their distances; else they stand side by side as words."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def named(setting: str) -> str:
    """A setting in words."""
    return setting.replace("_", " ")


def _as_row(point: PublishedPoint) -> Row:
    return {
        "method": point.method,
        "density": point.density,
        **point.settings,
        "test_error_mean": point.error,
        "test_error_se": point.se,
    }


def published_lines(points: Sequence[PublishedPoint], settings: Sequence[str], rows: Sequence[Row]) -> list[Line]:
    """Published points of the methods shown, within the range of densities shown; none where settings are varied."""
    densities = [row["density"] for row in rows if row["method"] != "dense"]
    low, high = min(densities) / 1.05, max(densities) * 1.05
    fitting = [
        _as_row(point)
        for point in points
        if not settings and not point.settings and point.method != "dense" and low <= point.density <= high
    ]
    return join_rows(fitting, [], lambda row: row["density"], published=True)


def setting_lines(rows: Sequence[Row], setting: str, points: Sequence[PublishedPoint]) -> list[Line]:
    """Error against one varied setting: a line for each method, density and other setting, then the published ones."""
    concerned = [row for row in rows if setting in row]
    others = [key for key in varied(rows) if key != setting]
    ours = {(row["method"], row["density"]) for row in concerned}
    known = [
        _as_row(point)
        for point in points
        if not others and set(point.settings) == {setting} and (point.method, point.density) in ours
    ]
    lines = join_rows(concerned, others, lambda row: row[setting], with_density=True)
    return lines + join_rows(known, [], lambda row: row[setting], with_density=True, published=True)


def within_reach(lines: Sequence[Line], text: Callable[[Any], str]) -> tuple[list[Line], str]:
    """The lines less published points so high that they would squeeze the rest, and a note that names those."""
    limit = 1.3 * max(error for line in lines if not line.published for _, error, _ in line.points)
    shown, above = [], []
    for line in lines:
        kept = [point for point in line.points if not line.published or point[1] <= limit]
        above += [f"{line.label} {error:.4g} at {text(x)}" for x, error, _ in line.points if (x, error, _) not in kept]
        if kept:
            shown.append(Line(line.label, kept, line.published))
    return shown, f"Published, above the frame: {', '.join(above)}." if above else ""


def cited(points: Sequence[PublishedPoint], lines: Sequence[Line]) -> list[str]:
    """The sources of the published lines."""
    methods = {line.label.split(",")[0] for line in lines if line.published}
    return sources(point for point in points if point.method in methods)
