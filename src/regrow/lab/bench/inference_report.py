"""`regrow bench inference`: reads the options, reports progress, prints the table and writes the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from regrow.lab.cli.command import bench_command
from regrow.lab.cli.tables import console

from . import inference as bench_inference
from .common import Rows, check_known, machine_line, number, words
from .inference import KINDS
from .step import Network
from .step_report import read_networks

__all__ = ["run_bench_inference"]


def run_bench_inference(given: Mapping[str, Any], file: Path | None) -> None:
    """Measures, prints a line for each row and a table, and rewrites `file` after every row.

    Args:
        given: options as typed, by name; None where not given.
        file: the JSON file, or None.
    """
    networks = read_networks(given, "batches")
    kinds = words(given["kinds"], KINDS)
    check_known("kind", kinds, KINDS)
    rows = Rows(len(networks), bench_command("inference", {**given, "json": file}), file, _line)

    def starting(network: Network) -> None:
        rows.starting(f"{network.model} at density {network.density:g}, batch {network.batch}")

    bench_inference.run(networks, given["threads"], kinds, given["seconds"], starting, rows.add)
    out = console()
    out.print(f"{machine_line(rows.rows[0])}\n", markup=False, soft_wrap=True)
    out.print(_table(rows.rows, kinds))
    rows.say_where()


def _line(row: Mapping[str, Any]) -> str:
    text = f"{row['sparse_ms']:.2f} ms"
    if row["best_dense"] is not None:
        text += f", {row['ratio_best_dense']:.2f} times as fast as {row['best_dense']}"
    return "; ".join([text, *(f"no {name}: {reason}" for name, reason in row["failed"].items())])


def _table(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> Table:
    table = Table("network", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("density", "FLOPs", "batch", "sparse ms", *(f"{kind} ms" for kind in kinds), "ratio", "noise"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row["model"],
            f"{row['density']:.3g}",
            f"{row['flop_density']:.3g}",
            str(row["batch"]),
            number(row["sparse_ms"]),
            *(number(row["dense_ms"].get(kind)) for kind in kinds),
            number(row["ratio_best_dense"]),
            f"{row['noise']['sparse']:.0%}",
        )
    return table
