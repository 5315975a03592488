"""`regrow compare`: runs a comparison, and leaves a leaderboard and plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from regrow.lab.bench.common import words
from regrow.lab.cli.command import compare_command
from regrow.lab.cli.tables import console
from regrow.lab.errors import Interrupted, RunError
from regrow.lab.report.leaderboard import Entry, cells, leaderboard, varied, write_tables
from regrow.lab.report.published import published_points

from .comparison import Comparison, claim_folder, make_comparison
from .executors import executor
from .finished import bring_back, keep
from .grid import Outcome, run_grid

__all__ = ["run_compare"]

NO_PLOTS = "no plots: {} is not here; pip install 'regrow[report]', then the same command draws them"


def run_compare(recipe: str, given: Mapping[str, Any]) -> None:
    """Runs what is missing of a comparison and writes its tables after every run, its plots at the end.

    Args:
        given: options of the command line by name; None where not given.

    Raises:
        UsageError: before anything is run.
        Interrupted: Ctrl-C or SIGTERM; the message says how to go on.
        RunError: some runs failed; the others are in the tables.
    """
    out = Path(given["out"] or Path("runs") / "compare" / recipe)
    comparison = make_comparison(
        recipe,
        out,
        methods=words(given["methods"], ()),
        densities=words(given["densities"], ()),
        seeds=given["seeds"],
        vary=given["vary"] or (),
        overrides=[*(given["set"] or ()), *([f"epochs={given['epochs']}"] if given["epochs"] is not None else ())],
        storage=given["storage"],
        threads=given["threads"],
        data_dir=given["data_dir"],
    )
    with executor(given["executor"], given["jobs"], given["threads"]) as chosen:
        command = compare_command(recipe, given)
        claim_folder(out, comparison, command)
        bring_back(out, comparison.cells)
        pages = _Pages(comparison, out, command)
        pages.write(Outcome())
        outcome = run_grid(comparison.cells, chosen.jobs, pages.write, chosen.place)
    _finish(pages, outcome)


class _Pages:
    """The files that are written as the grid grows."""

    def __init__(self, comparison: Comparison, out: Path, command: str):
        self.comparison, self.out, self.command = comparison, out, command
        methods = {arm.method for arm in comparison.arms}
        self.points = [point for point in published_points(comparison.recipe) if point.method in methods]

    def rows(self) -> list[dict[str, Any]]:
        seeds = len(self.comparison.seeds)
        return leaderboard(
            Entry(arm.method, arm.density, arm.settings, [run for cell in arm.cells if (run := cell.summary)], seeds)
            for arm in self.comparison.arms
        )

    def write(self, outcome: Outcome, plots: tuple[str, ...] = ()) -> None:
        """The tables, with the reason for each run that is not there; and the summaries of those that are."""
        keep(self.out, self.comparison.cells)
        missing = [cell for cell in self.comparison.cells if not cell.summary]
        write_tables(
            self.out,
            self.rows(),
            title=f"{self.comparison.recipe}: {self.comparison.about}",
            command=self.command,
            seeds=len(self.comparison.seeds),
            points=self.points,
            unfinished={str(cell): outcome.failed.get(cell, f"{cell.done:.0%} done") for cell in missing},
            plots=plots,
        )

    def draw(self) -> tuple[str, ...]:
        """Names of the pictures that were drawn. Raises ImportError without the libraries that draw."""
        from regrow.lab.report.plots import draw_comparison

        title = f"{self.comparison.recipe}: {self.comparison.about}"
        return tuple(draw_comparison(self.out, self.rows(), title=title, command=self.command, points=self.points))


def _finish(pages: _Pages, outcome: Outcome) -> None:
    """Prints the table, draws, and says what is missing."""
    say = console()
    total = len(pages.comparison.cells)
    finished = sum(cell.summary is not None for cell in pages.comparison.cells)
    if finished:
        if not say.is_terminal:
            say.width = max(say.width, 140)
        say.print(_table(pages))
        try:
            pages.write(outcome, pages.draw())
        except ImportError as error:
            say.print(NO_PLOTS.format(error.name), markup=False, soft_wrap=True)
    for cell, reason in outcome.failed.items():
        say.print(f"{cell}: {reason}", markup=False, soft_wrap=True)
    say.print(f"in {pages.out}: leaderboard.md, .csv and .json", markup=False, soft_wrap=True)
    if outcome.stopped:
        raise Interrupted(f"stopped with {finished} of {total} runs finished; go on with: {pages.command}")
    if outcome.failed:
        raise RunError(
            f"{len(outcome.failed)} of {total} runs failed, for the reasons above; the same command tries them again"
        )


def _table(pages: _Pages) -> Table:
    rows = pages.rows()
    settings, seeds = varied(rows), len(pages.comparison.seeds)
    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    heads = ("density", *settings, "achieved", "test error, %", "seeds", "training\nFLOPs", "inference\nFLOPs")
    for head in (*heads, "seconds", "MiB", "updates"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*cells(row, settings, seeds))
    return table
