"""Charts of the report page and of picture files: what they share, so that each figure says only what it shows."""

from __future__ import annotations

import hashlib
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import floor, log10
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from PIL import Image

from regrow.io.atomic import write_atomically

from .palette import styles

__all__ = [
    "BASE",
    "NUMBER",
    "THEME",
    "VEGA_LITE",
    "Chart",
    "Figure",
    "Picture",
    "by_label",
    "by_layer",
    "error_axis",
    "finish",
    "in_percent",
    "layer_name",
    "log_axis",
    "markers",
    "save",
    "thin",
    "time_unit",
]

Rows = Sequence[Mapping[str, Any]]
BASE: Any = alt.Chart(alt.NamedData("rows"))
"""A chart whose rows are given to `finish` or `save`."""
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
"""The version that Altair writes for."""
_TEXT = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": 500}
_LINES = {"gridColor": "#e6e9ee", "domainColor": "#8a93a0", "tickColor": "#8a93a0", "labelColor": "#3c4654"}
THEME: Any = {
    "view": {"stroke": None},
    "axis": {**_TEXT, **_LINES},
    "legend": {**_TEXT, "orient": "bottom", "columnPadding": 14},
}
"""How all charts look; the page adds its font and what depends on its width."""
WIDTH = 620
"""Pixels of the plot of a picture file."""
GREY = "#5a6472"
NUMBER = ".6~g"
"""Numbers on an axis with chosen ticks, which are not rounded to the space between them."""
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
    """The content between a heading and its caption.

    Attributes:
        title: with the unit.
        caption: what the chart shows, and how to read it.
        commands: that made the data.
        small: put charts side by side, as many as fit.
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
    """A chart as wide as the page.

    Args:
        height: height of the plot in pixels.
        steps: in its place, so many rows of bars.
    """
    if steps:
        chart, height = chart.properties(height=alt.Step(28)), 28 * steps
    else:
        chart = chart.properties(height=height)
    spec = chart.properties(width="container").to_dict(validate=False)  # checked by the tests, in a browser
    return Chart(spec, [_short(row) for row in rows], height + 70, title)


def save(
    file: Path, chart: Any, rows: Rows, title: str, subtitle: str = "", caption: Sequence[str] = (), height: int = 320
) -> None:
    """Draws a chart into a PNG or an SVG, by the name of the file, as wide as a page of the documentation.

    Args:
        chart: made from `BASE`; charts side by side have sizes of their own.
        rows: what it shows, with the `label` of each.
        subtitle: below the title.
        caption: paragraphs below the chart.
        height: of the plot in pixels.
    """
    if isinstance(chart, alt.Chart | alt.LayerChart):
        chart = chart.properties(width=WIDTH, height=height)
    lines = [line for text in caption for line in textwrap.wrap(text, 120, break_on_hyphens=False)]
    below = alt.Title(lines, orient="bottom", anchor="start", fontSize=10.5, fontWeight="normal", color=GREY, offset=14)
    above = alt.Title(title, subtitle=subtitle, anchor="start", fontSize=15, subtitleColor=GREY, offset=14)
    chart = alt.vconcat(chart, title=above)
    spec = (alt.vconcat(chart, title=below) if lines else chart).to_dict(validate=False)
    longest = max(len(row["label"]) for row in rows)
    legend = {**THEME["legend"], "columns": max(1, WIDTH // (7 * longest + 45)), "labelLimit": WIDTH}
    spec |= {"datasets": {"rows": rows}, "config": {**THEME, "legend": legend}, "padding": 12}
    with write_atomically(file) as temporary:
        if file.suffix == ".svg":
            temporary.write_text(vl_convert.vegalite_to_svg(spec, VEGA_LITE), encoding="utf-8")
        else:
            picture = Image.open(io.BytesIO(vl_convert.vegalite_to_png(spec, VEGA_LITE, scale=2))).convert("RGB")
            picture.quantize(dither=Image.Dither.NONE).save(temporary, "PNG", optimize=True)  # a seventh of the bytes


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """Five digits are more than a screen shows."""
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}


def by_label(labels: Sequence[str]) -> dict[str, Any]:
    """Colour and dashes by label, with one legend."""
    looks = styles(labels)
    legend = alt.Legend(title=None, symbolStrokeWidth=3)
    colours = alt.Scale(domain=list(looks), range=[look.colour for look in looks.values()])
    dashes = alt.Scale(domain=list(looks), range=[list(look.dashes) for look in looks.values()])
    return {
        "color": alt.Color("label:N", scale=colours, legend=legend),
        "strokeDash": alt.StrokeDash("label:N", scale=dashes, legend=legend),
    }


def markers(labels: Sequence[str]) -> dict[str, Any]:
    """Colour and marker by label, with one legend."""
    looks = styles(labels)
    scale = alt.Scale(domain=list(looks), range=[look.marker for look in looks.values()])
    legend = alt.Legend(title=None, symbolOpacity=1, symbolStrokeWidth=0)
    colour = by_label(labels)["color"].legend(legend)
    return {"color": colour, "shape": alt.Shape("label:N", scale=scale, legend=legend)}


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


def log_axis(title: str, values: Sequence[float], ticks: Sequence[float] = ()) -> dict[str, Any]:
    """A logarithmic axis just wider than the values.

    Args:
        ticks: in the place of round numbers.
    """
    low, high = (float(f"{value:.4g}") for value in (min(values) / 1.08, max(values) * 1.08))
    if not ticks:
        digits = (1, 1.5, 2, 3, 5, 7) if high / low > 5 else (1, 1.2, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)
        powers = range(floor(log10(low)), floor(log10(high)) + 1)
        found = [float(f"{digit}e{power}") for power, digit in product(powers, digits)]
        inside = [tick for tick in found if low <= tick <= high]
        ticks = inside if len(inside) > 1 else [float(f"{value:.3g}") for value in sorted({*values})]
    return {
        "title": f"{title} (log scale)",
        "scale": alt.Scale(type="log", domain=[low, high], nice=False),
        "axis": alt.Axis(format=NUMBER, values=list(ticks)),
    }


def error_axis(title: str, errors: Sequence[float]) -> dict[str, Any]:
    """Linear, or logarithmic where the largest error is far above the smallest."""
    if min(errors) > 0 and max(errors) / min(errors) > ERRORS_APART:
        return log_axis(title, errors)
    one = min(errors) == max(errors)  # of which Vega would make an axis without numbers
    domain: Any = {"domain": [0.95 * errors[0], 1.05 * errors[0]]} if one else {}
    return {"title": title, "scale": alt.Scale(zero=False, **domain)}


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
