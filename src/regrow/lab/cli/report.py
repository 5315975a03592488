"""The commands `regrow report` and `regrow features`. Heavy libraries are imported when they run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["features", "report"]


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH…",
            help="Run folders, regrow compare folders, folders of either, or "
            "JSON files from regrow bench layers, step and run and from regrow features.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", dir_okay=False, help="Page to write.")] = Path("report.html"),
    live: Annotated[
        bool, typer.Option("--live", help="Rewrite the page while runs go on; the browser reloads it.")
    ] = False,
    every: Annotated[int, typer.Option(min=1, metavar="S", help="Seconds between rewrites with --live.")] = 10,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in your browser.")] = False,
) -> None:
    """Writes one page of runs, comparisons and measurements, as a single file that needs no network.

    The page shows each section it has data for: error against epochs and seconds, the weights layer by layer,
    histograms, masks as pictures, error against density beside published figures, speed, memory, a leaderboard,
    settings.

    \b
    Examples:
      regrow report runs/demo --open
      regrow report runs/compare/lenet300-mnist results/steps.json results/layers.json --out page.html
    """
    import webbrowser

    from .live import live_report
    from .reporting import make_report

    if live:
        live_report(paths, out, every, open_)
        return
    make_report(paths, out)
    typer.echo(f"in {out}")
    if open_:
        webbrowser.open(out.resolve().as_uri())


def features(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="CHECKPOINT…",
            help="Run folders or checkpoints, such as a sparse and a dense run.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE", dir_okay=False, help="The file that `regrow report` shows.")
    ] = Path("features.json"),
    split: Annotated[str, typer.Option(metavar="SPLIT", help="train, validation or test.")] = "test",
    images: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Images of the split, at most; default: all.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of data sets; default: $REGROW_DATA.")
    ] = None,
) -> None:
    """Measures how specialised each channel of a network is in one class (arXiv:1907.04840, dense and sparse features).

    The mean activation of a channel is split among the classes. Its specialisation is the largest of these fractions.

    \b
    Examples:
      regrow features runs/demo/sparse-momentum-0.1-s0-44136fa3 runs/demo/dense-1-s0-44136fa3
      regrow features runs/sparse runs/dense --images 2000 --out features.json && regrow report features.json
    """
    from regrow.lab.bench.features import analyse, summary_lines, write_features

    words = ["regrow", "features", *map(str, paths), "--split", split]
    command = shlex.join([*words, *([] if images is None else ["--images", str(images)])])
    networks = analyse(paths, data_dir, split, images)
    write_features(out, networks, command)
    typer.echo("\n".join([*summary_lines(networks), f"in {out}; show it with: regrow report {shlex.quote(str(out))}"]))
