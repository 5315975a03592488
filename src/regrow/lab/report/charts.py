"""Charts of the report page: what they share of Altair, so that each figure says only what it shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log10
from typing import Any

import altair as alt

from .palette import styles

__all__ = [
    "BASE",
    "Chart",
    "Figure",
    "Picture",
    "by_label",
    "by_layer",
    "error_scale",
    "finish",
    "in_percent",
    "layer_name",
    "thin",
    "time_unit",
]

Rows = Sequence[Mapping[str, Any]]
BASE: Any = alt.Chart(alt.NamedData("rows"))
"""A chart whose rows are given to `finish`."""
_DASHES = {"-": [1, 0], "--": [6, 3], "-.": [6, 3, 1, 3]}
ERRORS_APART = 3
"""Errors further apart than this factor are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite specification without its rows, the rows, the height in pixels and a heading, where it needs one."""

    spec: Mapping[str, Any]
    rows: Rows
    height: int
    title: str = ""

    @property
    def key(self) -> str:
        """Names the rows; charts with the same rows share them in the page."""
        return hashlib.sha256(json.dumps(list(self.rows)).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, how many pixels of the screen it is wide at most, and what it shows."""

    uri: str
    width: int
    title: str


@dataclass(frozen=True)
class Figure:
    """What stands between a heading and its caption.

    Attributes:
        title: with the unit.
        caption: what is seen, and how to read it.
        commands: that made the data.
        small: charts stand side by side, as many as there is room for.
        wide: the figure takes the width of the page.
    """

    title: str
    caption: str
    commands: Sequence[str]
    charts: Sequence[Chart] = ()
    pictures: Sequence[Picture] = ()
    small: bool = False
    wide: bool = False


def finish(chart: Any, rows: Rows, height: int = 280, title: str = "", steps: int = 0) -> Chart:
    """A chart as wide as the page has room for.

    Args:
        height: of the plot in pixels.
        steps: in its place, so many rows of bars.
    """
    if steps:
        chart, height = chart.properties(height=alt.Step(28)), 28 * steps
    else:
        chart = chart.properties(height=height)
    spec = chart.properties(width="container").to_dict(validate=False)  # checked by the tests, in a browser
    return Chart(spec, [_short(row) for row in rows], height + 70, title)


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """Five digits are more than a screen shows."""
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}


def by_label(labels: Sequence[str]) -> dict[str, Any]:
    """Colour and dashes by label, with one legend."""
    looks = styles(labels)
    shown = [label for label in looks if label in set(labels)]
    colours, dashes = ([looks[label][i] for label in shown] for i in (0, 2))
    legend = alt.Legend(title=None, symbolStrokeWidth=3)
    dash = alt.Scale(domain=shown, range=[_DASHES[dash] for dash in dashes])
    return {
        "color": alt.Color("label:N", scale=alt.Scale(domain=shown, range=colours), legend=legend),
        "strokeDash": alt.StrokeDash("label:N", scale=dash, legend=legend),
    }


def by_layer(names: Sequence[str]) -> Any:
    """Colour by layer, from dark at the input to light at the output."""
    scheme = alt.SchemeParams(name="viridis", extent=[0.0, 0.93])
    return alt.Color("layer:N", scale=alt.Scale(domain=list(names), scheme=scheme), legend=alt.Legend(title=None))


def layer_name(parameter: str) -> str:
    """A parameter's name as a chart shows it.

    Example:
        >>> layer_name("block1.conv1.weight")
        'block1.conv1'
    """
    return parameter.removesuffix(".weight")


def error_scale(errors: Sequence[float]) -> Any:
    """Linear, or logarithmic where the largest error is far above the smallest."""
    far = min(errors) > 0 and max(errors) / min(errors) > ERRORS_APART
    return alt.Scale(type="log", nice=False) if far else alt.Scale(zero=False)


def in_percent(share: float) -> float:
    """Percent, without the noise of binary fractions."""
    digits = 4 - int(log10(share)) if share > 0 else 4
    return round(100 * share, digits)


def thin(rows: Sequence[Any], at_most: int) -> list[Any]:
    """Evenly chosen rows, the first and the last among them.

    Example:
        >>> thin(range(10), 4)
        [0, 3, 6, 9]
    """
    if len(rows) <= at_most:
        return list(rows)
    return [rows[i * (len(rows) - 1) // (at_most - 1)] for i in range(at_most)]


def time_unit(longest: float) -> tuple[float, str]:
    """Seconds of the unit in which a time reads best, and its name.

    Example:
        >>> time_unit(7200)
        (60.0, 'minutes')
    """
    return (1.0, "seconds") if longest < 300 else (60.0, "minutes") if longest < 3 * 3600 else (3600.0, "hours")
