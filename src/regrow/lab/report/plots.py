"""Plots of a leaderboard: test error against density, against training FLOPs and against each varied setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.io.atomic import write_atomically

from .drawing import STYLE, add_legend, density_axis, draw_levels, draw_lines, flops_axis, new_figure, setting_axis
from .leaderboard import Row, percent, varied
from .lines import Line, are_numbers, cited, join_rows, named, published_lines, setting_lines, within_reach
from .published import PublishedPoint

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
        rows: of `leaderboard`.
        title: what was trained, and how; `command` stands below.
        command: what was trained, and how; `command` stands below.
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
        lines = join_rows(sparse, settings, lambda row: row["density"]) + published_lines(points, settings, rows)
        shown, above = within_reach(lines, percent)
        figure = new_figure(title, command, cited(points, lines), above)
        axes = figure.axes[0]
        draw_lines(axes, shown, dodge=True)
        draw_levels(axes, join_rows([row for row in rows if row["method"] == "dense"], settings, lambda row: None))
        density_axis(axes, shown)
        figures.append(("error_density", add_legend(figure)))
    counted = [row for row in rows if row["train_flops"]]
    if counted:
        figure = new_figure(title, command)
        axes = figure.axes[0]
        lines = join_rows(counted, settings, lambda row: row["train_flops"])
        draw_lines(axes, lines)
        flops_axis(axes)
        figures.append(("error_flops", add_legend(figure)))
    for setting in settings:
        figures.append((f"error_{setting}", _setting_figure(rows, setting, title, command, points)))
    return figures


def _setting_figure(
    rows: Sequence[Row], setting: str, title: str, command: str, points: Sequence[PublishedPoint]
) -> Figure:
    """Error against one varied setting, at its distances where the values are numbers."""
    lines = setting_lines(rows, setting, points)
    shown, above = within_reach(lines, lambda value: f"{named(setting)} {value}")
    figure = new_figure(title, command, cited(points, lines), above)
    axes = figure.axes[0]
    values = list({str(x): x for line in shown for x, _, _ in line.points}.values())
    if are_numbers(values):
        places = {str(value): value for value in sorted(values)}
        draw_lines(axes, shown)
    else:
        places = {str(value): place for place, value in enumerate(values)}
        placed = [
            Line(line.label, [(places[str(x)], y, se) for x, y, se in line.points], line.published) for line in shown
        ]
        draw_lines(axes, placed, joined=False)
        axes.set_xlim(-0.5, len(places) - 0.5)
    setting_axis(axes, named(setting), places)
    return add_legend(figure)
