"""`regrow bench run`: reads the options, reports progress, prints the table and writes the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from regrow.lab import models
from regrow.lab.cli.command import bench_command
from regrow.lab.cli.tables import console
from regrow.lab.data.datasets import data_root
from regrow.lab.errors import UsageError
from regrow.lab.recipes.catalog import get_recipe
from regrow.lab.recipes.settings import Settings, make_settings
from regrow.lab.training.topology_file import Topology, left_dense, load_topology

from . import run as bench_run
from .common import Rows, check_known, machine_line, number, read_densities, words
from .step import DENSE, FP32, default_kinds

__all__ = ["run_bench_run"]

HEADINGS = ("density", "FLOPs", "rule", "sparse\nepoch s", "update\ns", "best fp32\nepoch s", "", "against\nfp32")


def run_bench_run(given: Mapping[str, Any], file: Path | None) -> None:
    """Measures, prints a line for each row and a table, and rewrites `file` after every row.

    Args:
        given: options as typed, by name; None where not given.
        file: the JSON file, or None.
    """
    runs = _read(given)
    kinds = words(given["kinds"], default_kinds())
    check_known("kind", kinds, DENSE)
    if not set(kinds) & set(FP32):
        raise UsageError(f"--kinds {given['kinds']} needs at least one of {', '.join(FP32)} to compare with")
    rows = Rows(len(runs), bench_command("run", {**given, "data_dir": None, "json": file}), file, _line)

    def starting(settings: Settings) -> None:
        rows.starting(f"{settings.recipe.name} at density {settings.density:g}, {bench_run.rule(settings)}")

    root = data_root(given["data_dir"])
    bench_run.run(runs, root, given["threads"], kinds, starting=starting, progress=rows.add)
    _print(rows.rows)
    rows.say_where()


def _read(given: Mapping[str, Any]) -> list[tuple[Settings, Topology | None]]:
    """A run for each topology file, or one for each density that starts from the initial topology."""
    recipe = f"{given['model']}-cifar10"
    names = {"share": given["share"], "flops_budget": given["flops_budget"], "window": given["window"]}
    names |= {"window_batch": given["window_batch"]}
    chosen = [f"{name}={value}" for name, value in names.items() if value is not None]
    densities = read_densities(given["density"], given["topology"])
    if given["topology"]:
        topologies = [load_topology(file) for file in words(given["topology"], ())]
        return [(_going_on(recipe, one, chosen), one) for one in topologies]
    return [
        (make_settings(recipe, density=density, storage="compressed", overrides=chosen), None) for density in densities
    ]


def _going_on(recipe: str, topology: Topology, overrides: Sequence[str]) -> Settings:
    """The method and the redistribution rule that made a topology go on, with the layers dense that it left dense."""
    about = topology.about
    known = {name: about.get(name) for name in ("distribution", "share", "flops_budget", "max_density")}
    rules = [f"{name}={value}" for name, value in known.items() if value is not None]
    dense = left_dense(models.build(get_recipe(recipe).model), topology.masks)
    method = about.get("method", "sparse-momentum")
    overrides = [*rules, f"dense={','.join(dense)}", *overrides]
    return make_settings(recipe, method=method, density=topology.density, storage="compressed", overrides=overrides)


def _line(row: Mapping[str, Any]) -> str:
    return f"{row['sparse_epoch_s']:.1f} s, {row['ratio_best_fp32']:.2f} times as fast as {row['best_fp32']}"


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("network", no_wrap=True)
    for heading in (*HEADINGS, "against\nbf16"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["model"],
            f"{row['density']:.3g}",
            f"{row['flop_density']:.3g}",
            row["rule"],
            number(row["sparse_epoch_s"], 1),
            number(row["topology_update_s"]),
            number(row["dense_epoch_s"][row["best_fp32"]], 1),
            row["best_fp32"],
            number(row["ratio_best_fp32"]),
            number(row["ratio_bf16"]),
        )
    out = console()
    if not out.is_terminal:
        out.width = max(out.width, 140)
    out.print(f"{machine_line(rows[0])}\n", markup=False, soft_wrap=True)
    out.print(table)
