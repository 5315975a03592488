"""Plots of a leaderboard: test error against density, against training FLOPs and against each varied setting.

Colours are those of Okabe and Ito, which the colour-blind tell apart; markers differ as well. Needs matplotlib.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.files import write_atomically

from .leaderboard import Row, percent, varied
from .published import PublishedPoint, sources

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_comparison"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
DASHES = ("-", "--", "-.")
"""One for each time the colours are used up."""
MARKERS = ("o", "s", "^", "D", "v", "p", "<", ">", "h", "P", "X")
"""As many as have no factor in common with the colours: 77 different pairs."""
DENSE_COLOUR = "#000000"
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


@dataclass(frozen=True)
class _Line:
    """One line of a plot: label, and points (x, error, standard error or None) in the order of x."""

    label: str
    points: list[tuple[Any, float, float | None]]
    published: bool = False


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
        figure = _figure(title, command, _cite(points, lines), above)
        axes = figure.axes[0]
        _draw(axes, shown, dodge=True)
        _dense_lines(axes, rows, settings)
        _density_axis(axes, shown)
        figures.append(("error_density", _finish(figure)))
    counted = [row for row in rows if row["train_flops"]]
    if counted:
        figure = _figure(title, command)
        axes = figure.axes[0]
        lines = _lines(counted, settings, lambda row: row["train_flops"])
        _draw(axes, lines)
        _number_axis(axes, FLOPS_LABEL)
        figures.append(("error_flops", _finish(figure)))
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
    shown, above = _within_reach([*lines, *published], lambda value: f"{named(setting)} {value}")
    figure = _figure(title, command, _cite(points, published), above)
    axes = figure.axes[0]
    values = list(dict.fromkeys(x for line in shown for x, _, _ in line.points))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        _draw(axes, shown)
        axes.set_xticks(sorted(values), [f"{value:g}" for value in sorted(values)])
    else:
        places = {str(value): place for place, value in enumerate(values)}
        placed = [
            _Line(line.label, [(places[str(x)], y, se) for x, y, se in line.points], line.published) for line in shown
        ]
        _draw(axes, placed, joined=False)
        axes.set_xticks(list(places.values()), list(places))
        axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_xlabel(named(setting))
    _error_axis(axes)
    return _finish(figure)


# -- what is drawn


def _lines(
    rows: Sequence[Row],
    settings: Sequence[str],
    x: Callable[[Row], Any],
    with_density: bool = False,
    published: bool = False,
) -> list[_Line]:
    """Rows with the same method and settings (and density) joined, the lines with the lowest first error first."""
    found: dict[str, list[tuple[Any, float, float | None]]] = {}
    for row in rows:
        changes = [f"{named(key)} {row[key]}" for key in settings if key in row]
        density = [percent(row["density"])] if with_density and row["method"] != "dense" else []
        label = ", ".join([row["method"], *density, *changes])
        found.setdefault(label, []).append((x(row), row["test_error_mean"], row["test_error_se"]))
    lines = []
    for label, points in found.items():
        numbers = all(isinstance(point[0], int | float) for point in points)
        lines.append(_Line(label, sorted(points) if numbers else points, published))
    return sorted(lines, key=lambda line: line.points[0][1])


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


def _published(points: Sequence[PublishedPoint], settings: Sequence[str], rows: Sequence[Row]) -> list[_Line]:
    """Published points of the methods shown, within the range of densities shown; none where settings are varied."""
    densities = [row["density"] for row in rows if row["method"] != "dense"]
    low, high = min(densities) / 1.05, max(densities) * 1.05
    fitting = [
        _as_row(point)
        for point in points
        if not settings and not point.settings and point.method != "dense" and low <= point.density <= high
    ]
    return _lines(fitting, [], lambda row: row["density"], published=True)


def _within_reach(lines: Sequence[_Line], text: Callable[[Any], str]) -> tuple[list[_Line], str]:
    """The lines less published points so high that they would squeeze the rest, and a note that names those."""
    limit = 1.3 * max(error for line in lines if not line.published for _, error, _ in line.points)
    shown, above = [], []
    for line in lines:
        kept = [point for point in line.points if not line.published or point[1] <= limit]
        above += [f"{line.label} {error:.4g} at {text(x)}" for x, error, _ in line.points if (x, error, _) not in kept]
        if kept:
            shown.append(_Line(line.label, kept, line.published))
    return shown, f"Published, above the frame: {', '.join(above)}." if above else ""


def _cite(points: Sequence[PublishedPoint], lines: Sequence[_Line]) -> list[str]:
    """The sources of the published lines."""
    methods = {line.label.split(",")[0] for line in lines if line.published}
    return sources(point for point in points if point.method in methods)


# -- how it is drawn


def _figure(title: str, command: str, cited: Sequence[str] = (), note: str = "") -> Figure:
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


def _styles(lines: Sequence[_Line]) -> Mapping[str, tuple[str, str, str]]:
    """Colour, marker and dashes of each label; by name, so that every plot of a leaderboard has the same."""
    labels = sorted({line.label for line in lines} - {"dense"})
    styles = {
        label: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], DASHES[i // len(COLOURS) % len(DASHES)])
        for i, label in enumerate(labels)
    }
    return {"dense": (DENSE_COLOUR, "*", "-"), **styles}


def _draw(axes: Axes, lines: Sequence[_Line], dodge: bool = False, joined: bool = True) -> None:
    """Lines with error bars; published points hollow. `dodge` moves lines apart where x is the same."""
    ours = [line for line in lines if not line.published]
    styles = _styles(lines)
    for i, line in enumerate([*ours, *(line for line in lines if line.published)]):
        colour, marker, dashes = styles[line.label]
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


def _dense_lines(axes: Axes, rows: Sequence[Row], settings: Sequence[str]) -> None:
    """Dense as a horizontal line, and its standard error as a band."""
    for i, row in enumerate(row for row in rows if row["method"] == "dense"):
        changes = ", ".join(f"{named(key)} {row[key]}" for key in settings if key in row)
        error, se = row["test_error_mean"], row["test_error_se"] or 0.0
        style = ("--", "-.", ":", (0, (1, 3)))[i % 4]
        label = f"dense, {changes}" if changes else "dense"
        axes.axhline(error, color=DENSE_COLOUR, linestyle=style, linewidth=1.1, label=label, zorder=1)
        axes.axhspan(error - se, error + se, color=DENSE_COLOUR, alpha=0.1, linewidth=0, zorder=0)


def _density_axis(axes: Axes, lines: Sequence[_Line]) -> None:
    ticks = sorted({x for line in lines if not line.published for x, _, _ in line.points})
    _number_axis(axes, "density: share of weights that are active (log scale)")
    axes.set_xticks(ticks, [percent(tick) for tick in ticks])
    axes.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)


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


def _finish(figure: Figure) -> Figure:
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
