"""`regrow bench step`: reads the options, reports progress, prints the tables and writes the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from regrow.lab.cli.command import bench_command
from regrow.lab.cli.tables import console
from regrow.lab.models import MODELS
from regrow.lab.training.topology_file import load_topology

from . import step as bench_step
from .common import Rows, check_known, machine_line, number, read_batches, read_densities, words
from .step import DENSE, Network, default_kinds

__all__ = ["read_networks", "run_bench_step"]

HEADINGS = ("density", "FLOPs", "batch", "sparse\nms", "converting\nms", "best fp32\nms", "", "against\nfp32")


def run_bench_step(given: Mapping[str, Any], file: Path | None) -> None:
    """Measures, prints a line for each row and tables, and rewrites `file` after every row.

    Args:
        given: options as typed, by name; None where not given.
        file: the JSON file, or None.
    """
    networks, asked = _read(given)
    rows = Rows(len(networks), bench_command("step", {**given, "json": file}), file, _line)

    def starting(network: Network) -> None:
        rows.starting(f"{network.model} at density {network.density:g}, batch {network.batch}")

    bench_step.run(networks, **asked, starting=starting, progress=rows.add)
    _print(rows.rows)
    rows.say_where()


def _read(given: Mapping[str, Any]) -> tuple[list[Network], dict[str, Any]]:
    """The networks and the further arguments of `bench_step.run`; all is checked before anything is measured."""
    networks = read_networks(given, "batch")
    kinds = words(given["kinds"], default_kinds())
    check_known("kind", kinds, DENSE)
    asked = {"threads": given["threads"], "kinds": kinds, "seconds": given["seconds"], "memory": given["memory"]}
    return networks, asked


def read_networks(given: Mapping[str, Any], batch: str) -> list[Network]:
    """Yields every combination of the given values; with a topology file, only its density.

    Args:
        given: options as typed, by name.
        batch: the name of that of the batches.
    """
    names = words(given["model"], ())
    check_known("model", names, tuple(MODELS))
    batches = read_batches(f"--{batch}", given[batch])
    densities = read_densities(given["density"], given["topology"])
    if given["topology"] is None:
        return [Network(name, share, n) for name in names for share in densities for n in batches]
    topology = load_topology(given["topology"])
    return [Network(name, topology.density, n, topology.masks, topology.share) for name in names for n in batches]


def _line(row: Mapping[str, Any]) -> str:
    text = f"{row['sparse_ms']:.0f} ms"
    if row["ratio_best_fp32"] is not None:
        text += f", {row['ratio_best_fp32']:.2f} times as fast as {row['best_fp32']}"
    return "; ".join([text, *(f"no {name}: {reason}" for name, reason in row["failed"].items())])


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    out = console()
    if not out.is_terminal:
        out.width = max(out.width, 140)
    out.print(f"{machine_line(rows[0])}\n", markup=False, soft_wrap=True)
    out.print(_steps(rows))
    out.print()
    out.print(_work(rows))
    if any(row.get("peak_mib") for row in rows):
        out.print()
        out.print(_memory(rows))


def _table(headings: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("network", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _steps(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table((*HEADINGS, "against\nbf16", "noise"))
    for row in rows:
        best = row["best_fp32"]
        times = (row["sparse_ms"], row["sparse_converting_ms"], row["dense_ms"].get(best))
        table.add_row(
            row["model"],
            f"{row['density']:.3g}",
            f"{row['flop_density']:.3g}",
            str(row["batch"]),
            *(number(time, 0) for time in times),
            best or "",
            number(row["ratio_best_fp32"]),
            number(row["ratio_bf16"]),
            f"{row['noise']['sparse']:.0%}",
        )
    return table


def _work(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Milliseconds of a sparse step by kind of work, one column a row of the measurement."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("sparse step, ms by kind of work", no_wrap=True)
    for row in rows:
        table.add_column(f"{row['model']}\n{row['density']:.3g}, {row['batch']}", justify="right", no_wrap=True)
    for kind in rows[0]["work_ms"]:
        table.add_row(kind, *(number(row["work_ms"][kind], 1) for row in rows))
    return table


def _memory(rows: Sequence[Mapping[str, Any]]) -> Table:
    kinds = list(rows[0]["peak_mib"])
    table = _table([f"{kind}\npeak MiB" for kind in kinds] + ["weights\nof dense"])
    for row in rows:
        weights = row["weight_bytes"]["sparse"] / row["weight_bytes"]["dense"]
        peaks = (number(row["peak_mib"].get(kind), 0) for kind in kinds)
        table.add_row(f"{row['model']} {row['density']:.3g}, {row['batch']}", *peaks, f"{weights:.0%}")
    return table
