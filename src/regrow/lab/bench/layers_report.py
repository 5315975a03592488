"""`regrow bench layers`: reads the options, reports progress, prints the table and writes the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from regrow.lab.cli.command import bench_command
from regrow.lab.cli.tables import console
from regrow.lab.errors import UsageError

from . import layers as bench_layers
from .common import Rows, check_known, machine_line, number, read_density, words
from .timing import CLOCKS

__all__ = ["run_bench_layers"]

# Columns that appear if measured: the dense kind or peer whose time is divided by the sparse one's, and heading.
RATIOS = {"bf16": "bf16", "onednn": "oneDNN", "torch_csr": "CSR", "sparselab": "sparselab"}


def run_bench_layers(given: Mapping[str, Any], file: Path | None) -> None:
    """Measures, prints a line for each row and a table, and rewrites `file` after every row.

    Args:
        given: options as typed, by name; None where not given.
        file: the JSON file, or None.
    """
    asked = _read(given)
    total = len(asked["cases"]) * len(asked["densities"])
    rows = Rows(total, bench_command("layers", {**given, "json": file}), file, _line)
    bench_layers.run(
        **asked, starting=lambda case, density: rows.starting(f"{case} at density {density:g}"), progress=rows.add
    )
    _print(rows.rows)
    rows.say_where()


# -- reading


def _read(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `bench_layers.run`; everything typed is checked before anything is measured."""
    asked = {name: value for name, value in given.items() if value is not None}
    asked["cases"] = words(asked.get("cases"), bench_layers.CASES)
    asked["kinds"] = words(asked.get("kinds"), bench_layers.KINDS)
    asked["densities"] = [read_density(word) for word in words(asked.get("densities"), bench_layers.DENSITIES)]
    try:
        for case in asked["cases"]:
            bench_layers.parse_case(case)
    except ValueError as error:
        raise UsageError(str(error)) from None
    check_known("kind", asked["kinds"], bench_layers.KINDS)
    check_known("clock", [asked["clock"]], tuple(CLOCKS))
    return asked


# -- telling


def _line(row: Mapping[str, Any]) -> str:
    text = f"{row['sparse_ms']:.2f} ms"
    if row["ratio_best_fp32"] is not None:
        text += f", {row['ratio_best_fp32']:.2f} times as fast as {row['best_fp32']}"
    return "; ".join([text, *(f"no {name}: {reason}" for name, reason in row["failed"].items())])


def _times(row: Mapping[str, Any]) -> dict[str, float]:
    return {**row["dense_ms"], **row["peers_ms"]}


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    """Milliseconds, then how many times as fast as each other contestant the sparse layer is."""
    shown = [name for name in RATIOS if any(name in _times(row) for row in rows)]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("case", no_wrap=True)
    numbers = ["density", "batch", "sparse\nms", "ordinary\nms", "best fp32\nms", "", "against\nfp32"]
    for heading in (*numbers, *(f"against\n{RATIOS[name]}" for name in shown), "noise", "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row, shown))
    out = console()
    if not out.is_terminal:
        out.width = max(out.width, 140)
    out.print(f"{machine_line(rows[0])}\n", markup=False, soft_wrap=True)
    out.print(table)


def _cells(row: Mapping[str, Any], shown: Sequence[str]) -> list[str]:
    times = _times(row)
    ratios = [times[name] / row["sparse_ms"] if name in times else None for name in shown]
    figures = (row["sparse_ms"], row["sparse_ordinary_ms"], times.get(row["best_fp32"]))
    return [
        row["case"],
        f"{row['density']:g}",
        str(row["batch"]),
        *map(number, figures),
        row["best_fp32"] or "",
        *map(number, (row["ratio_best_fp32"], *ratios)),
        f"{row['noise']['sparse']:.0%}",
        f"{row['max_rel_error']:.0e}",
    ]
