"""Figures of where the weights went: layer by layer, update by update, for a run of each method and density."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from .charts import BASE, Chart, Figure, by_layer, finish, in_percent, layer_name, thin
from .runs import Run

__all__ = ["histogram_figures", "topology_figures"]

UPDATES = 60
"""Topology updates that a chart shows, at most."""
WIDE_APART = 20
"""Densities further apart than this factor are drawn on a logarithmic axis."""
STEPS = alt.X("step:Q", title="optimizer step", scale=alt.Scale(nice=False))
Row = Mapping[str, Any]


def topology_figures(run: Run) -> list[Figure]:
    """Active weights, densities, importance and moves of one run; none where nothing was updated."""
    if not run.updates:
        return []
    names = [layer_name(row["name"]) for row in run.updates if row["step"] == run.updates[0]["step"]]
    commands = [run.command] if run.command else []
    steps = sorted({row["step"] for row in run.updates})
    shown = thin(steps, UPDATES)
    rows = [_row(row, run, names) for row in run.updates if row["step"] in set(shown)]
    course = _from_start_to_end(rows, run)
    note = "" if len(shown) == len(steps) else f" {len(shown)} of {len(steps)} updates are shown."
    return [
        Figure(
            "Where the weights are",
            "Active weights of each layer, stacked, from the first step to the last; layers from input (dark) to "
            f"output (light).{note}",
            commands,
            [_stacked(course, names, "active", "active weights", step=True)],
        ),
        *_densities(course, names, commands),
        *_importance(rows, names, commands, note),
        Figure(
            "Grown and pruned at each update",
            f"Weights that entered a layer (above zero) and left it (below), at each topology update.{note}",
            commands,
            [_moves(rows, names)],
        ),
    ]


def _row(row: Row, run: Run, names: Sequence[str]) -> dict[str, Any]:
    layer = layer_name(row["name"])
    positions = run.layers.get(row["name"])
    return {
        "step": row["step"],
        "layer": layer,
        "order": names.index(layer),
        "active": row["active"],
        "density": in_percent(row["active"] / positions) if positions else None,
        "importance": row["importance"],
        "pruned": row["pruned"],
        "grown": row["grown"],
    }


def _from_start_to_end(rows: Sequence[dict[str, Any]], run: Run) -> list[dict[str, Any]]:
    """The rows, with one before for the first step and one behind for the last step so far."""
    first = [row for row in rows if row["step"] == rows[0]["step"]]
    last = [row for row in rows if row["step"] == rows[-1]["step"]]
    end = max(row["step"] for row in [*run.metrics, *last])
    before = []
    for row in first:
        active = row["active"] - row["grown"] + row["pruned"]
        density = row["density"] and row["density"] * active / row["active"]
        before.append({**row, "step": 0, "active": active, "density": density})
    return [*before, *rows, *({**row, "step": end} for row in last if end > row["step"])]


def _stacked(rows: Sequence[Row], names: Sequence[str], field: str, title: str, step: bool = False) -> Chart:
    chart = BASE.mark_area(interpolate="step-after" if step else "linear").encode(
        STEPS,
        alt.Y(f"{field}:Q", title=title, stack="zero"),
        by_layer(names),
        alt.Order("order:Q"),
        tooltip=["layer:N", "step:Q", f"{field}:Q"],
    )
    return finish(chart, rows)


def _densities(rows: Sequence[Row], names: Sequence[str], commands: Sequence[str]) -> list[Figure]:
    known = [row["density"] for row in rows if row["density"]]
    if not known:
        return []
    far = max(known) / min(known) > WIDE_APART
    chart = BASE.mark_line(interpolate="step-after", strokeWidth=2.5).encode(
        STEPS,
        alt.Y(
            "density:Q",
            title="density in %" + (" (log scale)" if far else ""),
            scale=alt.Scale(type="log", nice=False) if far else alt.Scale(),
        ),
        by_layer(names),
        tooltip=["layer:N", "step:Q", "density:Q"],
    )
    return [
        Figure(
            "Density of each layer",
            "Active weights of a layer over all its positions, in percent.",
            commands,
            [finish(chart, rows)],
        )
    ]


def _importance(rows: Sequence[Row], names: Sequence[str], commands: Sequence[str], note: str) -> list[Figure]:
    if not any(row["importance"] for row in rows):
        return []
    return [
        Figure(
            "Importance of each layer",
            "By which freed weights are shared out: for sparse momentum the mean momentum of a layer's weights, "
            f"normalised to sum 1, at each topology update.{note}",
            commands,
            [_stacked(rows, names, "importance", "share of importance")],
        )
    ]


def _moves(rows: Sequence[Row], names: Sequence[str]) -> Chart:
    base = BASE.transform_calculate(left="-datum.pruned").encode(
        alt.X("step:O", title="optimizer step", axis=alt.Axis(labelOverlap="greedy", labelAngle=0)),
        by_layer(names),
        alt.Order("order:Q"),
        tooltip=["layer:N", "step:Q", "grown:Q", "pruned:Q"],
    )
    grown = base.mark_bar().encode(alt.Y("grown:Q", title="weights grown, pruned"))
    pruned = base.mark_bar(opacity=0.75).encode(alt.Y("left:Q"))
    zero = BASE.mark_rule(color="#333").encode(y=alt.datum(0))
    return finish(alt.layer(grown, pruned, zero), rows)


def histogram_figures(run: Run) -> list[Figure]:
    """Returns how the active weights of each layer are spread, after the first and the last epoch that was written."""
    if not run.histograms:
        return []
    epochs = [row["epoch"] for row in run.histograms]
    first, last = min(epochs), max(epochs)
    names = list(dict.fromkeys(row["name"] for row in run.histograms))
    chosen = {(row["epoch"], row["name"]): row for row in run.histograms if row["epoch"] in (first, last)}
    charts = [_histogram(chosen[first, name], chosen[last, name], layer_name(name)) for name in names]
    return [
        Figure(
            "Weights of each layer",
            f"Histograms of the active weights, each as tall as its largest bin: filled after epoch {last}, the line "
            f"after epoch {first}.",
            [run.command] if run.command else [],
            charts,
            small=True,
        )
    ]


def _histogram(first: Row, last: Row, title: str) -> Chart:
    rows = []
    for row, when in ((first, "first"), (last, "last")):
        bins = len(row["counts"])
        width = 2 * row["limit"] / bins
        highest = max(row["counts"])
        rows += [
            {"value": -row["limit"] + (i + 0.5) * width, "share": count / highest, "weights": count, "when": when}
            for i, count in enumerate(row["counts"])
        ]
    base = BASE.encode(
        alt.X("value:Q", title=None, axis=alt.Axis(tickCount=4)),
        alt.Y("share:Q", title=None, axis=None),
        tooltip=["value:Q", "weights:Q"],
    )
    filled = base.mark_area(interpolate="step", color="#0072B2", opacity=0.75).transform_filter("datum.when == 'last'")
    line = base.mark_line(interpolate="step", color="#333", strokeWidth=1.2).transform_filter("datum.when == 'first'")
    return finish(alt.layer(filled, line), rows, 80, title)
