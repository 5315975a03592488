"""Figures of a leaderboard: test error against density, training FLOPs and each varied setting, with published ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from .charts import BASE, Chart, Figure, by_label, error_scale, finish, in_percent
from .inputs import Board
from .leaderboard import percent, varied
from .lines import Line, are_numbers, cited, join_rows, named, published_lines, setting_lines, within_reach
from .published import published_points

__all__ = ["comparison_figures"]

BARS = "Bars are standard errors over seeds."


def comparison_figures(board: Board) -> list[Figure]:
    """What the rows allow."""
    settings = varied(board.rows)
    sparse = [row for row in board.rows if row["method"] != "dense"]
    figures = []
    if sparse and len(board.rows) > 1:
        methods = {row["method"] for row in sparse}
        points = [point for point in published_points(board.recipe) if point.method in methods]
        ours = join_rows(sparse, settings, lambda row: row["density"])
        lines, above = within_reach([*ours, *published_lines(points, settings, board.rows)], percent)
        dense = join_rows([row for row in board.rows if row["method"] == "dense"], settings, lambda row: None)
        cite = [f"Hollow: published in {source.rstrip('.')}." for source in cited(points, lines)]
        caption = f"Share of the test set that the network gets wrong at the end of training. {BARS}"
        level = ["The black line is dense."] if dense else []
        figures.append(
            Figure(
                f"Test error against density: {board.recipe}",
                " ".join([caption, *level, *cite, above]).strip(),
                board.commands,
                [_errors(lines, _log_axis("density in % (log scale)"), dense[:1], shares=True)],
            )
        )
    counted = [row for row in board.rows if row["train_flops"]]
    if len(counted) > 1:
        lines = join_rows(counted, settings, lambda row: row["train_flops"])
        figures.append(
            Figure(
                f"Test error against training FLOPs: {board.recipe}",
                "FLOPs of all training steps, each with the topology that it had, relative to those of a dense run. "
                f"{BARS}",
                board.commands,
                [_errors(lines, _log_axis("training FLOPs, dense = 1 (log scale)"), [])],
            )
        )
    return figures + [_against_setting(board, setting) for setting in settings]


def _against_setting(board: Board, setting: str) -> Figure:
    """Error against one varied setting."""
    points = published_points(board.recipe)
    lines = setting_lines(board.rows, setting, points)
    shown, above = within_reach(lines, lambda value: f"{named(setting)} {value}")
    cite = [f"Hollow: published in {source.rstrip('.')}." for source in cited(points, lines)]
    if are_numbers(x for line in shown for x, _, _ in line.points):
        x = alt.X("x:Q", title=named(setting), scale=alt.Scale(zero=False, padding=18), axis=alt.Axis(tickCount=5))
    else:
        shown = [
            Line(line.label, [(str(x), error, se) for x, error, se in line.points], line.published) for line in shown
        ]
        x = alt.X("x:N", title=named(setting), sort=None, axis=alt.Axis(labelAngle=0))
    return Figure(
        f"Test error against {named(setting)}: {board.recipe}",
        " ".join([f"All else as in the command. {BARS}", *cite, above]).strip(),
        board.commands,
        [_errors(shown, x, [])],
    )


def _log_axis(title: str) -> alt.X:
    scale = alt.Scale(type="log", padding=18, nice=False)
    return alt.X("x:Q", title=title, scale=scale, axis=alt.Axis(format="~g", tickCount=5))


def _errors(lines: Sequence[Line], x: alt.X, dense: Sequence[Line], shares: bool = False) -> Chart:
    """Points with error bars, ours joined where x is a quantity; `dense` as a level across."""
    rows = [row for line in lines for row in _points(line, shares)]
    levels = [row for line in dense for row in _points(line, False)]
    labels = [line.label for line in [*lines, *dense]]
    looks = by_label(labels)
    scale = error_scale([row["error"] for row in [*rows, *levels]])
    y = alt.Y("error:Q", title="test error in %", scale=scale)
    tip = ["label:N", x.shorthand, "error:Q", "se:Q", "from:N"]
    points = BASE.transform_filter("isValid(datum.x)")
    ours = points.transform_filter("datum.from == 'ours'")
    joined = [ours.mark_line().encode(x, y, **looks)] if x.shorthand == "x:Q" else []
    parts = [
        *joined,
        points.mark_rule(strokeWidth=1.5).encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), color=looks["color"]),
        ours.mark_point(size=70, filled=True, opacity=1).encode(x, y, tooltip=tip, color=looks["color"]),
    ]
    if any(line.published for line in lines):
        hollow = points.transform_filter("datum.from == 'published'").mark_point(size=70, fill="white", opacity=1)
        parts.append(hollow.encode(x, y, tooltip=tip, color=looks["color"]))
    if levels:
        level = BASE.transform_filter("!isValid(datum.x)").mark_rule(strokeWidth=1.5)
        parts.insert(0, level.encode(y, color=looks["color"], tooltip=tip))
    return finish(alt.layer(*parts), [*rows, *levels], 300)


def _points(line: Line, shares: bool) -> list[dict[str, Any]]:
    return [
        {
            "label": line.label,
            "x": in_percent(x) if shares else x,
            "error": error,
            "se": se,
            "low": error - (se or 0),
            "high": error + (se or 0),
            "from": "published" if line.published else "ours",
        }
        for x, error, se in line.points
    ]
