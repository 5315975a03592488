"""`regrow demo`: the same small network dense and sparse, side by side, and the page of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from regrow.lab.errors import RunError
from regrow.lab.recipes.settings import make_settings
from regrow.lab.training.loop import train
from regrow.lab.training.progress import terminal_reporter

from .reporting import make_report
from .tables import console, print_comparison

__all__ = ["run_demo"]


def run_demo(density: float, seed: int, out: Path, threads: int | None) -> None:
    """Trains digits-mlp dense and at `density`, prints one table, leaves the two run folders and their page in `out`.

    Runs that are finished there already are shown, not repeated.
    """
    runs = [
        make_settings("digits-mlp", method="dense", seed=seed),
        make_settings("digits-mlp", method="sparse-momentum", density=density, seed=seed),
    ]
    say = console()
    folders = [out / settings.folder().name for settings in runs]
    summaries = []
    for settings, folder in zip(runs, folders, strict=True):
        say.print(f"digits-mlp, {settings.method}, density {settings.density:g}")
        reporter = terminal_reporter()
        summaries.append(train(settings, out=folder, resume=True, threads=threads, reporter=reporter))
    print_comparison(summaries)
    say.print("\n".join(["The run folders:", *(f"  {folder}" for folder in folders)]), soft_wrap=True)
    say.print(
        "A network this small needs its weights, and its steps are mostly overhead: regrow train lenet300-mnist "
        "comes close to dense accuracy with 5 % of the weights, and regrow bench step times large networks.",
        soft_wrap=True,
    )
    _write_page(out, folders)
    say.print(f"Next: regrow summary {folders[-1]}", soft_wrap=True)


def _write_page(out: Path, folders: Sequence[Path]) -> None:
    """Writes the page and says where it is; without the libraries that it needs, what to install."""
    page = out / "report.html"
    try:
        make_report(folders, page)
        text = f"The page: {page}"
    except RunError as error:
        text = str(error)
    console().print(text, markup=False, soft_wrap=True)
