"""Printed output of the commands: tables that read well on a terminal and in a file."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from inspect import getdoc
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from regrow.lab.errors import unknown
from regrow.lab.recipes.catalog import RECIPES, get_recipe
from regrow.lab.recipes.methods import METHODS
from regrow.lab.recipes.options import entries, known_options, options_of, updaters
from regrow.lab.recipes.recipe import Recipe, setting_names
from regrow.lab.training.progress import clock

from .command import setting_text

__all__ = ["console", "print_comparison", "print_recipes", "print_settings", "print_summary"]


def console() -> Console:
    """A console on stdout; wide enough for a table when that is a file."""
    width = None if sys.stdout.isatty() else max(100, shutil.get_terminal_size().columns)
    return Console(width=width, highlight=False)


def print_recipes() -> None:
    """Prints the recipes and the methods."""
    table = Table("recipe", "description", "epochs", "batch", box=None, pad_edge=False)
    for name, make in RECIPES.items():
        recipe = make()
        table.add_row(name, recipe.about, str(recipe.epochs), str(recipe.batch_size))
    out = console()
    out.print(table)
    out.print("\nPublished protocols come from the paper of sparse momentum (arXiv:1907.04840).")
    methods = Table("method", "description", box=None, pad_edge=False)
    for name, method in METHODS.items():
        methods.add_row(name, method.about)
    out.print(methods)
    out.print(f"\nTrain with: regrow train {next(iter(RECIPES))} --method set --set prune_rate=0.3")
    out.print("`regrow settings` explains what --set KEY=VALUE can change, `regrow settings METHOD` for one method.")


def _as_typed(value: Any) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else setting_text(list(value) if isinstance(value, tuple) else value)
    )


def print_settings(method: str | None, recipe: str | None) -> None:
    """Prints what --set can change: the settings of all recipes, or those of a method, with a recipe's defaults."""
    chosen = get_recipe(recipe or next(iter(RECIPES)))
    rows = _method_rows(method, chosen) if method else _recipe_rows(chosen)
    table = Table("setting", "default", "what it is", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    out = console()
    if method:
        out.print(f"{method}: {METHODS[method].about}\n", soft_wrap=True)
    out.print(table if rows else f"{method} has no settings of its own.")
    if not method or recipe:
        out.print(f"\nDefaults are those of {chosen.name}.")
    if not method:
        out.print("Options of a method: regrow settings sparse-momentum")


def _recipe_rows(recipe: Recipe, names: Iterable[str] | None = None) -> list[tuple[str, str, str]]:
    about = entries(getdoc(Recipe) or "")
    return [
        (name, _as_typed(getattr(recipe, name)), about.get(name, ""))
        for name in (setting_names() if names is None else names)
    ]


def _method_rows(name: str, recipe: Recipe) -> list[tuple[str, str, str]]:
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    method, kind = METHODS[name], updaters().get(name)
    about = {**known_options(), **(options_of(kind) if kind else {})}
    options = [(key, recipe.option(key, default), about[key].about) for key, default in method.options.items()]
    return [(key, _as_typed(value), text) for key, value, text in options] + _recipe_rows(recipe, method.fields)


def print_summary(summary: Mapping[str, Any], folder: Path) -> None:
    """Prints the result of one run in a few lines."""
    active, prunable = summary["active_weights"], summary["prunable_weights"]
    lines = [
        f"test error {summary['test_error']:.2f} %, validation error {summary['validation_error']:.2f} %",
        f"{active:,} of {prunable:,} weights active, FLOP density {summary['flop_density_mean']:.3g} on average",
        f"{clock(summary['train_seconds'])} of training, {1000 * summary['seconds_per_step']:.2f} ms a step, "
        f"{1000 * summary['topology_seconds'] / max(summary['updates'], 1):.1f} ms a topology update, "
        f"{summary.get('data_wait_share', 0):.0%} of the steps' time waiting for data",
        f"in {folder}",
    ]
    if summary.get("processes", 1) > 1:
        sent, dense = summary["allreduce_bytes"], summary["allreduce_bytes_dense"]
        lines.insert(3, f"{summary['processes']} processes, {sent:,} bytes of gradients a step, dense {dense:,}")
    console().print("\n".join(lines), markup=False, soft_wrap=True)


def print_comparison(summaries: Sequence[Mapping[str, Any]]) -> None:
    """Prints one line for each run."""
    table = Table("method", "density")
    for heading in ("test error", "active weights", "training", "ms a step", "FLOP density"):
        table.add_column(heading, justify="right")
    for run in summaries:
        table.add_row(
            run["method"],
            f"{run['density']:g}",
            f"{run['test_error']:.2f} %",
            f"{run['active_weights']:,} of {run['prunable_weights']:,}",
            f"{run['train_seconds']:.1f} s",
            f"{1000 * run['seconds_per_step']:.2f}",
            f"{run['flop_density_mean']:.3g}",
        )
    console().print(table)
