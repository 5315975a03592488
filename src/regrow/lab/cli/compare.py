"""The command `regrow compare`. Heavy libraries are imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["compare"]


def compare(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name of a recipe; `regrow list` shows them.", show_default=False)
    ],
    methods: Annotated[
        str, typer.Option(metavar="METHOD,…", help="Methods to compare; dense runs once per seed.")
    ] = "dense,static,sparse-momentum",
    densities: Annotated[
        str, typer.Option(metavar="SHARE,…", help="Shares of active weights, each above 0 to 1.")
    ] = "0.01,0.02,0.05,0.1",
    seeds: Annotated[str, typer.Option(metavar="N", help="Number of seeds, from 0 on; or the seeds: 0,3,7.")] = "5",
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,…",
            help="Run once for each value of a setting; repeatable.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of all runs; may be repeated."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="Length of each training.")] = None,
    storage: Annotated[str, typer.Option(metavar="STORAGE", help="auto, masked or compressed.")] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for runs, tables and plots; default: runs/compare/RECIPE."),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of data sets; default: $REGROW_DATA.")
    ] = None,
    executor: Annotated[
        str,
        typer.Option(
            metavar="KIND", help="processes on this machine, or ray: the cluster at RAY_ADDRESS or a local one."
        ),
    ] = "processes",
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Number of runs at a time; default: 2 processes, or as many as the cluster holds."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="Threads of each run.")] = 1,
) -> None:
    """Trains a recipe with several methods, densities and seeds, and writes a leaderboard and plots.

    Each run has its own process. A failed run is shown and does not stop the others. Run the same command again to
    continue: finished runs are kept, stopped ones resume from their checkpoint, and the lists may have grown. The
    folder holds leaderboard.json, .csv and .md, plots of error against density and training FLOPs as PNG and SVG, and
    runs/.

    \b
    Examples:
      regrow compare lenet300-mnist --methods dense,static,sparse-momentum --densities 0.01,0.05 --seeds 5 --out table
      regrow compare digits-mlp --densities 0.1 --vary momentum=0.5,0.9 --executor ray --out sensitivity
    """
    from regrow.lab.compare.command import run_compare

    given: dict[str, Any] = {
        "methods": methods,
        "densities": densities,
        "seeds": seeds,
        "vary": vary,
        "set": set_,
        "epochs": epochs,
    }
    given |= {
        "storage": storage,
        "out": out,
        "data_dir": data_dir,
        "executor": executor,
        "jobs": jobs,
        "threads": threads,
    }
    run_compare(recipe, given)
