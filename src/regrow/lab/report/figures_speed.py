"""Figures of speed and memory, from the files of `regrow bench` and the benchmarks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from .charts import BASE, Chart, Figure, finish, in_percent
from .inputs import Inputs
from .leaderboard import percent
from .palette import COLOURS

__all__ = ["speed_figures"]

Row = Mapping[str, Any]
MIB = 2**20
WHOLE_DENSE = "best dense step, whole"
KINDS = (*COLOURS[:3], COLOURS[5], COLOURS[4], COLOURS[3], "#555555", "#999999", "#cccccc")


def speed_figures(inputs: Inputs) -> list[Figure]:
    """Returns what the rows allow: layers, steps with their breakdown and memory, epochs, memory of a layer."""
    return [
        *_layers(inputs.layers),
        *_steps(inputs.steps),
        *_breakdown(inputs.steps),
        *_epochs(inputs.epochs),
        *_memory(inputs.steps),
        *[_storage(storage) for storage in inputs.storages],
    ]


def _commands(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row["command"] for row in rows if "command" in row))


def _machines(rows: Iterable[Row]) -> str:
    """Returns where rows were measured."""
    return "; ".join(
        dict.fromkeys(
            f"{row['processor']}, {row['isa']}, {row['threads']} threads, torch {row['torch']}" for row in rows
        )
    )


def _names(rows: Sequence[Row], dense: bool = False) -> list[str]:
    """Network and density of each row, or that it is dense, with what else they differ by; each name once.

    Example:
        >>> _names([{"model": "vgg16-d", "density": 0.05}, {"model": "vgg16-d", "density": 0.05}])
        ['vgg16-d 5 %', 'vgg16-d 5 % (2)']
    """
    texts = {"batch": "batch {}", "threads": "{} threads", "isa": "{}", "share": "share {}"}
    differing = [key for key in texts if len({row.get(key) for row in rows}) > 1]
    names: list[str] = []
    for row in rows:
        density = "dense" if dense else f"{in_percent(row['density']):.3g} %"
        name = ", ".join(
            [
                f"{row['model']} {density}",
                *(texts[key].format(row[key]) for key in differing if row.get(key) is not None),
            ]
        )
        again = names.count(name)
        names.append(f"{name} ({again + 1})" if again and not dense else name)
    return names


def _ratios(rows: Sequence[Row], colour: str, order: Sequence[str]) -> Chart:
    """A point for each ratio, a line of them for each name."""
    ratio = alt.X("ratio:Q", title="times as fast (log scale)", scale=alt.Scale(type="log", padding=12, nice=False))
    names = list(dict.fromkeys(row["name"] for row in rows))
    scale = alt.Scale(domain=list(order), range=[*COLOURS[: len(order)]])
    points = BASE.mark_point(size=90, filled=True, opacity=1).encode(
        ratio.axis(format="~g", tickCount=6),
        alt.Y("name:N", title=None, sort=names, axis=alt.Axis(grid=True)),
        alt.Color(f"{colour}:N", scale=scale, sort=list(order), legend=alt.Legend(title=None)),
        tooltip=["name:N", f"{colour}:N", "ratio:Q"],
    )
    even = BASE.mark_rule(color="#333", strokeDash=[4, 3]).encode(x=alt.datum(1))
    return finish(alt.layer(even, points), rows, steps=len(names))


def _layers(rows: Sequence[Row]) -> list[Figure]:
    if not rows:
        return []
    densities = sorted({row["density"] for row in rows}, reverse=True)
    batches = " and ".join({str(row["batch"]): None for row in rows if not re.search(r"b\d+$", row["case"])})
    points = [
        {
            "name": row["case"],
            "density": percent(row["density"]),
            "ratio": row["ratio_best_fp32"],
        }
        for row in rows
        if row["ratio_best_fp32"]
    ]
    return [
        Figure(
            "Speed-up of layers",
            "Time of the fastest dense layer in fp32 over that of the sparse one, forward and backward; a point for "
            f"each density. The dashed line is dense. Batch {batches}, where the name has none. {_machines(rows)}.",
            _commands(rows),
            [_ratios(points, "density", [percent(density) for density in densities])],
            wide=True,
        )
    ]


def _steps(rows: Sequence[Row]) -> list[Figure]:
    if not rows:
        return []
    against = {"ratio_best_fp32": "against dense fp32", "ratio_bf16": "against dense bf16"}
    points = [
        {"name": name, "against": text, "ratio": row[key]}
        for row, name in zip(rows, _names(rows), strict=True)
        for key, text in against.items()
        if row.get(key)
    ]
    flops = ", ".join(dict.fromkeys(f"{in_percent(row['flop_density']):.3g} %" for row in rows))
    return [
        Figure(
            "Speed-up of training steps",
            "Time of the best dense step over that of the sparse one: forward, loss, backward, optimizer. The dashed "
            f"line is dense. FLOP densities: {flops}. {_machines(rows)}.",
            _commands(rows),
            [_ratios(points, "against", list(against.values()))],
            wide=True,
        )
    ]


def _bars(rows: Sequence[Row], kinds: Sequence[str], title: str, colours: Sequence[str] = KINDS) -> Chart:
    """Stacked bars, one for each name."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    chart = BASE.mark_bar().encode(
        alt.X("value:Q", title=title),
        alt.Y("name:N", title=None, sort=names),
        alt.Color("kind:N", scale=alt.Scale(domain=list(kinds), range=list(colours)), legend=alt.Legend(title=None)),
        alt.Order("order:Q"),
        tooltip=["name:N", "kind:N", "value:Q"],
    )
    return finish(chart, [{**row, "order": kinds.index(row["kind"])} for row in rows], steps=len(names))


def _breakdown(rows: Sequence[Row]) -> list[Figure]:
    bars: list[dict[str, Any]] = []
    for row, name, dense in zip(rows, _names(rows), _names(rows, dense=True), strict=True):
        bars += [{"name": name, "kind": kind, "value": ms} for kind, ms in row["work_ms"].items() if ms > 0]
        if row["best_fp32"] and dense not in {bar["name"] for bar in bars}:
            bars.append({"name": dense, "kind": WHOLE_DENSE, "value": row["dense_ms"][row["best_fp32"]]})
    kinds = list(dict.fromkeys(bar["kind"] for bar in bars if bar["kind"] != WHOLE_DENSE))
    if not kinds:
        return []
    colours = [*KINDS[: len(kinds)], KINDS[-1]]
    return [
        Figure(
            "Where the time of a step goes, in ms",
            "Time of a sparse training step by kind of work, and beside it the best dense step in fp32 as a whole. "
            f"{_machines(rows)}.",
            _commands(rows),
            [_bars(bars, [*kinds, WHOLE_DENSE], "ms a step", colours)],
            wide=True,
        )
    ]


def _epochs(rows: Sequence[Row]) -> list[Figure]:
    parts = {
        "training steps": "sparse_steps_s",
        "topology update": "topology_update_s",
        "validation": "sparse_validation_s",
    }
    bars: list[dict[str, Any]] = []
    for row, name in zip(rows, _names(rows), strict=True):
        bars += [{"name": name, "kind": kind, "value": row[key]} for kind, key in parts.items()]
        for kind, seconds in row["dense_epoch_s"].items():
            validation = row["dense_validation_s"][kind]
            dense = {"training steps": seconds - validation, "validation": validation}
            bars += [{"name": f"{row['model']} dense, {kind}", "kind": part, "value": s} for part, s in dense.items()]
    if not bars:
        return []
    return [
        Figure(
            "A whole epoch, in seconds",
            f"As a user trains it: data, steps, window, a topology update and validation. {_machines(rows)}.",
            _commands(rows),
            [_bars(bars, list(parts), "seconds an epoch", COLOURS[:3])],
        )
    ]


def _memory(rows: Sequence[Row]) -> list[Figure]:
    bars: list[dict[str, Any]] = []
    for row, name, dense in zip(rows, _names(rows), _names(rows, dense=True), strict=True):
        for kind, mib in (row.get("peak_mib") or {}).items():
            text = name if kind == "sparse" else f"{dense}, {kind}"
            if text not in {bar["name"] for bar in bars}:
                bars.append({"name": text, "kind": "sparse" if kind == "sparse" else "dense", "value": mib})
    if not bars:
        return []
    return [
        Figure(
            "Peak memory of training steps, in MiB",
            "Above what the process has before it makes the network; each in a process of its own.",
            _commands(rows),
            [_bars(bars, ["sparse", "dense"], "peak memory in MiB", [COLOURS[0], "#999999"])],
        )
    ]


def _storage(storage: Mapping[str, Any]) -> Figure:
    rows = [storage["dense"], *storage["rows"]]
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["counted"]))
    bars = [
        {"name": "dense" if row["density"] == 1 else percent(row["density"]), "kind": kind, "value": size / MIB}
        for row in rows
        for kind, size in row["counted"].items()
    ]
    size = storage["features"]
    return Figure(
        f"Memory of a Linear layer, {size} by {size}, in MiB",
        "What training it needs, by density.",
        [storage["command"]],
        [_bars(bars, kinds, "MiB", COLOURS[: len(kinds)])],
    )
