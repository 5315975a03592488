"""Plots of a leaderboard: test error against density, training FLOPs and each varied setting, with published ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from .charts import BASE, NUMBER, Figure, Rows, by_label, error_axis, finish, in_percent, log_axis, markers
from .inputs import Board
from .leaderboard import Row, varied
from .lines import Line, are_numbers, cited, join_rows, named, published_lines, setting_lines, within_reach
from .published import PublishedPoint, published_points

__all__ = ["Plot", "comparison_figures", "comparison_plots"]

BARS = "Bars are standard errors over seeds."
FLOPS = f"FLOPs of all training steps, each with the topology that it had, relative to those of a dense run. {BARS}"
APART = 0.012
"""Share by which points of the same density stand apart."""


@dataclass(frozen=True)
class Plot:
    """A chart of a leaderboard: the name of its file, its title and caption, and its rows."""

    name: str
    title: str
    caption: str
    chart: Any
    rows: Rows


def comparison_figures(board: Board) -> list[Figure]:
    """Figures of the page; of a single row the table says all."""
    methods = {row["method"] for row in board.rows}
    points = [point for point in published_points(board.recipe) if point.method in methods]
    return [
        Figure(f"{plot.title}: {board.recipe}", plot.caption, board.commands, [finish(plot.chart, plot.rows, 300)])
        for plot in (comparison_plots(board.rows, points) if len(board.rows) > 1 else [])
    ]


def comparison_plots(rows: Sequence[Row], points: Sequence[PublishedPoint] = ()) -> list[Plot]:
    """Returns what the rows allow.

    error_density: where a row is sparse; error_flops: where FLOPs were counted; error_<setting>: for each setting that
    is varied. Published points are hollow; dense is a level across.

    Args:
        rows: of `leaderboard`.
        points: published figures of the methods in the rows.
    """
    plots = [_against_density(rows, points)] if any(row["method"] != "dense" for row in rows) else []
    counted = [row for row in rows if row["train_flops"]]
    if counted:
        lines = join_rows(counted, varied(rows), lambda row: row["train_flops"])
        x = alt.X("x:Q", **log_axis("training FLOPs, dense = 1", [row["train_flops"] for row in counted]))
        plots.append(_plot("flops", "training FLOPs", FLOPS, lines, x))
    return plots + [_against_setting(rows, setting, points) for setting in varied(rows)]


def _against_density(rows: Sequence[Row], points: Sequence[PublishedPoint]) -> Plot:
    """Error against density in percent, with ticks at the densities of our own rows."""
    settings, sparse = varied(rows), [row for row in rows if row["method"] != "dense"]
    ours = join_rows(sparse, settings, lambda row: in_percent(row["density"]))
    published = [_in_percent(line) for line in published_lines(points, settings, rows)]
    lines, above = within_reach([*ours, *published], lambda share: f"{share:g} %")
    dense = join_rows([row for row in rows if row["method"] == "dense"], settings, lambda row: None)
    ticks = sorted({x for line in ours for x, _, _ in line.points})
    x = alt.X("place:Q", **log_axis("density in %", [ticks[0] / 1.07, ticks[-1] * 1.07], ticks))
    caption = f"Share of the test set that the network gets wrong at the end of training. {BARS}"
    level = ["The black line is dense."] if dense else []
    return _plot("density", "density", " ".join([caption, *level, *_sources(points, lines), above]), lines, x, dense)


def _against_setting(rows: Sequence[Row], setting: str, points: Sequence[PublishedPoint]) -> Plot:
    """Error against one varied setting, at its distances where the values are numbers, else as words side by side."""
    lines = setting_lines(rows, setting, points)
    shown, above = within_reach(lines, lambda value: f"{named(setting)} {value}")
    values = [x for line in shown for x, _, _ in line.points]
    if are_numbers(values):
        axis = alt.Axis(values=sorted(set(values)), format=NUMBER)
        x = alt.X("x:Q", title=named(setting), scale=alt.Scale(zero=False, padding=18), axis=axis)
    else:
        shown = [
            Line(line.label, [(str(x), error, se) for x, error, se in line.points], line.published) for line in shown
        ]
        x = alt.X("x:N", title=named(setting), sort=None, axis=alt.Axis(labelAngle=0))
    caption = f"All else as in the command. {BARS}"
    return _plot(setting, named(setting), " ".join([caption, *_sources(points, lines), above]), shown, x)


def _in_percent(line: Line) -> Line:
    return Line(line.label, [(in_percent(x), error, se) for x, error, se in line.points], line.published)


def _sources(points: Sequence[PublishedPoint], lines: Sequence[Line]) -> list[str]:
    return [f"Hollow: published in {source.rstrip('.')}." for source in cited(points, lines)]


def _plot(name: str, against: str, caption: str, lines: Sequence[Line], x: alt.X, dense: Sequence[Line] = ()) -> Plot:
    """Points with error bars, ours joined where x is a quantity; `dense` as levels across."""
    ours = [line for line in lines if not line.published]
    middle = (len(ours) - 1) / 2
    rows = [row for i, line in enumerate(ours) for row in _points(line, 1 + APART * (i - middle))]
    rows += [row for line in lines if line.published for row in _points(line)]
    rows += [row for line in dense for row in _points(line)]
    y = alt.Y("error:Q", **error_axis("test error in %", [row[key] for row in rows for key in ("low", "high")]))
    labels = [line.label for line in [*lines, *dense]]
    parts = [*(_levels(y, labels) if dense else []), *_marks(x, y, labels, hollow=len(ours) < len(lines))]
    return Plot(f"error_{name}", f"Test error against {against}", caption.strip(), alt.layer(*parts), rows)


def _levels(y: alt.Y, labels: Sequence[str]) -> list[Any]:
    """Lines across the plot, for rows without x, with bands of one standard error."""
    across = BASE.transform_filter("!isValid(datum.x)").encode(markers(labels)["color"])
    line = across.mark_rule(strokeWidth=1.5).encode(y, by_label(labels)["strokeDash"].legend(None))
    return [across.mark_rect(opacity=0.1).encode(alt.Y("low:Q"), alt.Y2("high:Q")), line]


def _marks(x: alt.X, y: alt.Y, labels: Sequence[str], hollow: bool) -> list[Any]:
    """Lines, bars and points; `hollow`: there are published ones."""
    colour, shape = markers(labels).values()
    kind = x.shorthand[-1]
    aside = [alt.XOffset("label:N")] if kind == "N" else []
    points = BASE.transform_filter("isValid(datum.x)").encode(x, colour, *aside)
    ours, published = (points.transform_filter(f"datum.from == '{source}'") for source in ("ours", "published"))
    look = {"y": y, "shape": shape, "tooltip": ["label:N", f"x:{kind}", "error:Q", "se:Q", "from:N"]}
    parts = [
        points.mark_rule(strokeWidth=1.2).encode(alt.Y("low:Q"), alt.Y2("high:Q")),
        ours.mark_point(size=60, filled=True, opacity=1, stroke="white", strokeWidth=0.5).encode(**look),
    ]
    if kind == "Q":
        parts.insert(0, ours.mark_line(strokeWidth=1.5).encode(y, by_label(labels)["strokeDash"].legend(None)))
    if hollow:
        parts.append(published.mark_point(size=45, fill="white", opacity=1, strokeWidth=1.3).encode(**look))
    return parts


def _points(line: Line, aside: float = 1.0) -> list[dict[str, Any]]:
    """Rows of a line; those of a density stand `aside` of it."""
    return [
        {
            "label": line.label,
            "x": x,
            "place": x * aside if isinstance(x, float) else x,
            "error": error,
            "se": se,
            "low": error - (se or 0),
            "high": error + (se or 0),
            "from": "published" if line.published else "ours",
        }
        for x, error, se in line.points
    ]
