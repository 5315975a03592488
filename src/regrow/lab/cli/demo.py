"""`regrow demo`: one network dense and sparse, each as it trains best, side by side, and the page of both."""

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

TUNED_DENSE = ("epochs=6", "warmup_epochs=0.6", "lr=0.1", "weight_decay=0.02")
"""What was best for the dense network among as many trials as the sparse one had (results/race_table.json); longer
trainings were no better."""
SHORT = ("epochs=6", "warmup_epochs=0.6")
"""The recipe of the sparse network, at half its length."""


def run_demo(density: float | None, seed: int, out: Path, threads: int | None) -> None:
    """Trains wide-table dense and at `density`, prints one table, leaves the two run folders and their page in `out`.

    Runs that are finished there already are shown, not repeated.
    """
    runs = [
        make_settings("wide-table", method="dense", seed=seed, overrides=TUNED_DENSE),
        make_settings("wide-table", method="sparse-momentum", density=density, seed=seed, overrides=SHORT),
    ]
    say = console()
    folders = [out / settings.folder().name for settings in runs]
    summaries = []
    say.print("10,000 inputs, 20 of which tell the class; both networks with the settings that suit them best.")
    for settings, folder in zip(runs, folders, strict=True):
        say.print(f"wide-table, {settings.method}, density {settings.density:g}")
        reporter = terminal_reporter()
        summaries.append(train(settings, out=folder, resume=True, threads=threads, reporter=reporter))
    print_comparison(summaries)
    say.print("\n".join(["The run folders:", *(f"  {folder}" for folder in folders)]), soft_wrap=True)
    say.print(
        "A sparse network finds inputs that matter among many. Where all inputs do, a short dense training is hard to "
        "beat: docs/race.md has both. regrow bench step times large networks.",
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
