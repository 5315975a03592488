"""The report page: one HTML file with its data, its charts and the libraries that draw them; it needs no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment

from regrow.io.atomic import write_atomically

from .charts import THEME, VEGA_LITE, Chart, Figure
from .figures_comparison import comparison_figures
from .figures_features import feature_figures
from .figures_speed import speed_figures
from .figures_topology import histogram_figures, topology_figures
from .figures_training import memory_figures, training_figures
from .inputs import Inputs
from .pictures import mask_figures
from .runs import shown_in_detail
from .tables import Table, board_table, run_table, settings_tables

__all__ = ["render", "write_page"]

EARLIER = "runs of an earlier version"
"""Unfinished ones, of which no recipe is known."""


@dataclass(frozen=True)
class Section:
    """A part of the page; empty ones are left out. `run`: the folder of the one run that it is about."""

    title: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    run: str = ""

    @property
    def key(self) -> str:
        """Names the section in the page's address."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


def write_page(inputs: Inputs, out: Path, command: str, refresh: int | None = None) -> None:
    """Writes the page, whole or not at all.

    Args:
        command: that makes it, shown at its end.
        refresh: seconds after which the page reloads itself.

    Example:
        >>> write_page(read_inputs(["runs/demo"]), Path("report.html"), "regrow report runs/demo")
    """
    page = render(inputs, command, refresh)
    with write_atomically(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render(inputs: Inputs, command: str, refresh: int | None = None) -> str:
    """The page as text; the same inputs give the same bytes."""
    shown = [section for section in _sections(inputs) if section.figures or section.tables]
    charts = [chart for section in shown for figure in section.figures for chart in figure.charts]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    numbers = {id(chart): number for number, chart in enumerate(charts)}
    environment.filters["number"] = lambda chart: numbers[id(chart)]
    return environment.from_string(_part("page.html.j2")).render(
        title=_title(inputs),
        sections=shown,
        specs=_for_script([{"data": chart.key, "spec": chart.spec} for chart in charts]),
        theme=_for_script(THEME),
        rows=_for_script({chart.key: _columns(chart) for chart in charts}),
        style=_part("page.css"),
        script=_part("page.js"),
        library=_library(),
        command=command,
        refresh=refresh,
        version=metadata.version("regrow"),
    )


def _sections(inputs: Inputs) -> list[Section]:
    runs, boards = inputs.runs, inputs.boards
    by_recipe = {recipe: [run for run in runs if run.recipe == recipe] for recipe in {run.recipe: None for run in runs}}
    sections = [
        Section("Overview", tables=[run_table(runs)] if runs else []),
        *(
            Section(f"Training: {recipe or EARLIER}", [*training_figures(own), *memory_figures(own)])
            for recipe, own in by_recipe.items()
        ),
        Section(
            "Comparison",
            [figure for board in boards for figure in comparison_figures(board)],
            [board_table(board) for board in boards],
        ),
    ]
    for run in shown_in_detail(runs):
        figures = [*topology_figures(run), *histogram_figures(run), *mask_figures(run)]
        title = f"Where the weights went: {run.label}" + (
            f", {run.recipe}" if run.recipe and len(by_recipe) > 1 else ""
        )
        sections.append(Section(title, figures, run=str(run.path)))
    sections += [Section("Features", [figure for one in inputs.features for figure in feature_figures(one)])]
    sections += [Section("Speed and memory", speed_figures(inputs))]
    settings = [
        table for own in by_recipe.values() if any(run.settings for run in own) for table in settings_tables(own)
    ]
    return [*sections, Section("Settings", tables=settings)]


def _title(inputs: Inputs) -> str:
    recipes = [run.recipe or EARLIER for run in inputs.runs] + [board.recipe for board in inputs.boards]
    return f"regrow: {', '.join(dict.fromkeys(recipes)) or 'speed and memory'}"


def _columns(chart: Chart) -> dict[str, Any]:
    """Rows without repeating the names of their fields."""
    names = list(dict.fromkeys(name for row in chart.rows for name in row))
    return {"names": names, "rows": [[row.get(name) for name in names] for row in chart.rows]}


def _for_script(value: Any) -> str:
    """JSON that ends no script element."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


@cache
def _part(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


@cache
def _library() -> str:
    """Vega, Vega-Lite and vega-embed in the version that Altair writes for, without what would end a script element."""
    library = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]
    return library.replace("</script", "<\\/script")
