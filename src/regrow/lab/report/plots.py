"""Plots of a leaderboard as picture files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .charts import save
from .figures_comparison import comparison_plots
from .leaderboard import Row
from .published import PublishedPoint

__all__ = ["draw_comparison"]


def draw_comparison(
    folder: Path,
    rows: Sequence[Row],
    *,
    title: str,
    command: str,
    points: Sequence[PublishedPoint] = (),
) -> list[str]:
    """Draws what the rows allow, each as PNG and SVG, and returns the names of the PNG files; see `comparison_plots`.

    Args:
        rows: of `leaderboard`.
        title: what was trained, and how.
        command: that trained it.
        points: published figures of the methods in the rows.
    """
    plots = comparison_plots(rows, points)
    for plot in plots:
        for kind in ("png", "svg"):
            save(folder / f"{plot.name}.{kind}", plot.chart, plot.rows, plot.title, title, [plot.caption, command])
    return [f"{plot.name}.png" for plot in plots]
