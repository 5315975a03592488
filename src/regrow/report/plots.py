"""Plots of a leaderboard: test error against density, against training FLOPs and against each varied setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.files import write_atomically

from .drawing import (
    STYLE,
    Line,
    add_legend,
    density_axis,
    draw_levels,
    draw_lines,
    flops_axis,
    new_figure,
    setting_axis,
)
from .leaderboard import Row, percent, varied
from .published import PublishedPoint, sources

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_comparison"]


def draw_comparison(
    folder: Path,
    rows: Sequence[Row],
    *,
    title: str,
    command: str,
    points: Sequence[PublishedPoint] = (),
) -> list[str]:
    """Draws what the rows allow, each as PNG and SVG, and returns the names of the PNG files.

    error_density: where a row is sparse; error_flops: where FLOPs were counted; error_<setting>: for each setting that
    is varied. Published points are hollow; dense is a horizontal line. Bars are standard errors over seeds.

    Args:
        rows: of `leaderboard`. title, command: what was trained, and how; `command` stands below.
        points: published figures of the methods in the rows.

    Raises:
        ImportError: there is no matplotlib.
    """
    import matplotlib

    drawn = []
    with matplotlib.rc_context(STYLE):
        for name, figure in _figures(rows, title, command, points):
            for kind in ("png", "svg"):
                with write_atomically(folder / f"{name}.{kind}") as temporary:
                    extra: dict[str, Any] = {"dpi": 160} if kind == "png" else {"metadata": {"Date": None}}
                    figure.savefig(temporary, format=kind, **extra)
            drawn.append(f"{name}.png")
    return drawn


def _figures(
    rows: Sequence[Row], title: str, command: str, points: Sequence[PublishedPoint]
) -> list[tuple[str, Figure]]:
    """(file name, figure) of each plot."""
    settings = varied(rows)
    sparse = [row for row in rows if row["method"] != "dense"]
    figures = []
    if sparse:
        lines = _lines(sparse, settings, lambda row: row["density"]) + _published(points, settings, rows)
        shown, above = _within_reach(lines, percent)
        figure = new_figure(title, command, _cite(points, lines), above)
        axes = figure.axes[0]
        draw_lines(axes, shown, dodge=True)
        draw_levels(axes, _lines([row for row in rows if row["method"] == "dense"], settings, lambda row: None))
        density_axis(axes, shown)
        figures.append(("error_density", add_legend(figure)))
    counted = [row for row in rows if row["train_flops"]]
    if counted:
        figure = new_figure(title, command)
        axes = figure.axes[0]
        lines = _lines(counted, settings, lambda row: row["train_flops"])
        draw_lines(axes, lines)
        flops_axis(axes)
        figures.append(("error_flops", add_legend(figure)))
    for setting in settings:
        figures.append((f"error_{setting}", _setting_figure(rows, settings, setting, title, command, points)))
    return figures


def _setting_figure(
    rows: Sequence[Row],
    settings: Sequence[str],
    setting: str,
    title: str,
    command: str,
    points: Sequence[PublishedPoint],
) -> Figure:
    """Error against one varied setting: a line for each method, density and other setting."""
    concerned = [row for row in rows if setting in row]
    others = [key for key in settings if key != setting]
    lines = _lines(concerned, others, lambda row: row[setting], with_density=True)
    known = [point for point in points if set(point.settings) == {setting}] if not others else []
    ours = {(row["method"], row["density"]) for row in concerned}
    published = _lines(
        [_as_row(point) for point in known if (point.method, point.density) in ours],
        [],
        lambda row: row[setting],
        with_density=True,
        published=True,
    )
    shown, above = _within_reach([*lines, *published], lambda value: f"{_named(setting)} {value}")
    figure = new_figure(title, command, _cite(points, published), above)
    axes = figure.axes[0]
    values = list({str(x): x for line in shown for x, _, _ in line.points}.values())
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        places = {str(value): value for value in sorted(values)}
        draw_lines(axes, shown)
    else:  # words, evenly spaced
        places = {str(value): place for place, value in enumerate(values)}
        placed = [
            Line(line.label, [(places[str(x)], y, se) for x, y, se in line.points], line.published) for line in shown
        ]
        draw_lines(axes, placed, joined=False)
        axes.set_xlim(-0.5, len(places) - 0.5)
    setting_axis(axes, _named(setting), places)
    return add_legend(figure)


# -- what is drawn


def _lines(
    rows: Sequence[Row],
    settings: Sequence[str],
    x: Callable[[Row], Any],
    with_density: bool = False,
    published: bool = False,
) -> list[Line]:
    """Rows with the same method and settings (and density) joined, the lines with the lowest first error first."""
    found: dict[str, list[tuple[Any, float, float | None]]] = {}
    for row in rows:
        changes = [f"{_named(key)} {row[key]}" for key in settings if key in row]
        density = [percent(row["density"])] if with_density and row["method"] != "dense" else []
        label = ", ".join([row["method"], *density, *changes])
        found.setdefault(label, []).append((x(row), row["test_error_mean"], row["test_error_se"]))
    lines = []
    for label, points in found.items():
        numbers = all(isinstance(point[0], int | float) for point in points)
        lines.append(Line(label, sorted(points) if numbers else points, published))
    return sorted(lines, key=lambda line: line.points[0][1])


def _named(setting: str) -> str:
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


def _published(points: Sequence[PublishedPoint], settings: Sequence[str], rows: Sequence[Row]) -> list[Line]:
    """Published points of the methods shown, within the range of densities shown; none where settings are varied."""
    densities = [row["density"] for row in rows if row["method"] != "dense"]
    low, high = min(densities) / 1.05, max(densities) * 1.05
    fitting = [
        _as_row(point)
        for point in points
        if not settings and not point.settings and point.method != "dense" and low <= point.density <= high
    ]
    return _lines(fitting, [], lambda row: row["density"], published=True)


def _within_reach(lines: Sequence[Line], text: Callable[[Any], str]) -> tuple[list[Line], str]:
    """The lines less published points so high that they would squeeze the rest, and a note that names those."""
    limit = 1.3 * max(error for line in lines if not line.published for _, error, _ in line.points)
    shown, above = [], []
    for line in lines:
        kept = [point for point in line.points if not line.published or point[1] <= limit]
        above += [f"{line.label} {error:.4g} at {text(x)}" for x, error, _ in line.points if (x, error, _) not in kept]
        if kept:
            shown.append(Line(line.label, kept, line.published))
    return shown, f"Published, above the frame: {', '.join(above)}." if above else ""


def _cite(points: Sequence[PublishedPoint], lines: Sequence[Line]) -> list[str]:
    """The sources of the published lines."""
    methods = {line.label.split(",")[0] for line in lines if line.published}
    return sources(point for point in points if point.method in methods)
