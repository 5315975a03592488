"""How a plot looks: its frame and caption, lines with error bars, and axes.

Colours and markers are those of `palette`. Needs matplotlib.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .leaderboard import percent
from .lines import Line
from .palette import DENSE_COLOUR, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "STYLE",
    "add_legend",
    "density_axis",
    "draw_levels",
    "draw_lines",
    "flops_axis",
    "new_figure",
    "setting_axis",
]

STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": "#222222",
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "font.size": 9.5,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "regrow",
    "svg.fonttype": "none",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}
ERROR_LABEL = "test error in %"
HOLLOW = "hollow: published"
FLOPS_LABEL = "training FLOPs, dense = 1 (log scale)"


def new_figure(title: str, command: str, cited: Sequence[str] = (), note: str = "") -> Figure:
    """An empty plot with its title; below it the command, the sources and a note. Lengths are in inches."""
    from matplotlib.figure import Figure

    caption = [textwrap.fill(command, 165, subsequent_indent="    ", break_on_hyphens=False)]
    caption += [textwrap.fill(text, 175) for text in (*(f"Published: {source}." for source in cited), note) if text]
    text = "\n".join(caption)
    plot, labels, head = 4.2, 0.5, 0.4
    below = 0.135 * (text.count("\n") + 1) + 0.15
    height = head + plot + labels + below
    figure = Figure(figsize=(8.6, height))
    axes = figure.add_axes((0.085, (below + labels) / height, 0.66, plot / height))
    axes.set_title(title)
    figure.text(0.015, 0.07 / height, text, fontsize=6.5, color="#555555", va="bottom", linespacing=1.35)
    return figure


def draw_lines(axes: Axes, lines: Sequence[Line], dodge: bool = False, joined: bool = True) -> None:
    """Lines with error bars; published points hollow. `dodge` moves lines apart where x is the same."""
    ours = [line for line in lines if not line.published]
    looks = styles(line.label for line in lines)
    for i, line in enumerate([*ours, *(line for line in lines if line.published)]):
        colour, marker, dashes = looks[line.label]
        shift = 1.0
        if dodge and not line.published:
            shift = 1 + 0.012 * (i - (len(ours) - 1) / 2)
        x, y, se = zip(*line.points, strict=True)
        axes.errorbar(
            [value * shift for value in x] if dodge else x,
            y,
            yerr=[error or 0.0 for error in se],
            label="_" if line.published else line.label,
            color=colour,
            marker=marker,
            markersize=10 if marker == "*" else 5.5 if line.published else 6.5,
            markerfacecolor="white" if line.published else colour,
            markeredgecolor=colour if line.published else "white",
            markeredgewidth=1.1 if line.published else 0.5,
            linestyle=dashes if joined and not line.published else "none",
            linewidth=1.5,
            elinewidth=1.1,
            capsize=2.5,
            zorder=2 if line.published else 3,
        )
    if any(line.published for line in lines):
        hollow: dict[str, Any] = {
            "color": "none",
            "marker": "o",
            "markerfacecolor": "white",
            "markeredgecolor": "#666666",
        }
        axes.plot([], [], label=HOLLOW, **hollow)


def draw_levels(axes: Axes, lines: Sequence[Line]) -> None:
    """The first error of each line as a horizontal line, and its standard error as a band."""
    for i, line in enumerate(lines):
        _, error, se = line.points[0]
        style = ("--", "-.", ":", (0, (1, 3)))[i % 4]
        axes.axhline(error, color=DENSE_COLOUR, linestyle=style, linewidth=1.1, label=line.label, zorder=1)
        if se:
            axes.axhspan(error - se, error + se, color=DENSE_COLOUR, alpha=0.1, linewidth=0, zorder=0)


def density_axis(axes: Axes, lines: Sequence[Line]) -> None:
    """Ticks at the densities of our own lines, in percent."""
    ticks = sorted({x for line in lines if not line.published for x, _, _ in line.points})
    _number_axis(axes, "density: share of weights that are active (log scale)")
    axes.set_xticks(ticks, [percent(tick) for tick in ticks])
    axes.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)


def flops_axis(axes: Axes) -> None:
    """Shares of the dense network's FLOPs."""
    _number_axis(axes, FLOPS_LABEL)


def setting_axis(axes: Axes, label: str, places: Mapping[str, float]) -> None:
    """Ticks at the values of a setting: text -> place."""
    axes.set_xticks(list(places.values()), list(places))
    axes.set_xlabel(label)
    _error_axis(axes)


def _number_axis(axes: Axes, label: str) -> None:
    """A logarithmic x axis with plain numbers, and the error axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set_xlabel(label)
    _error_axis(axes)


def _error_axis(axes: Axes) -> None:
    """Linear, or logarithmic where the largest error is far above the smallest."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.dataLim.intervaly
    axes.set_ylabel(ERROR_LABEL)
    if low > 0 and high / low > 3:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(10, (1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel(f"{ERROR_LABEL} (log scale)")
    axes.grid(True, axis="y")
    axes.set_axisbelow(True)


def add_legend(figure: Figure) -> Figure:
    """The legend: methods as they are at the left, then dense, then what hollow points are."""
    axes = figure.axes[0]
    entries = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    last = [label for label in entries if label.startswith("dense")] + [label for label in entries if label == HOLLOW]
    order = [label for label in entries if label not in last] + last
    axes.legend(
        [entries[label] for label in order],
        order,
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        borderaxespad=0.0,
        fontsize=8.5,
    )
    return figure
