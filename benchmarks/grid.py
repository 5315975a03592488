"""Common parts of programs that run a grid of trainings: options, and the result file, rewritten after every run.

The grid itself is `regrow.lab.compare.grid`: finished runs are kept, stopped ones go on from their checkpoint, failed
ones are shown and do not stop the rest. Run the same command again until it is whole.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from regrow.io.atomic import write_atomically
from regrow.lab.compare.grid import INTERRUPTED, Cell, Outcome, run_grid
from regrow.lab.report.leaderboard import mean_and_error

__all__ = ["ROOT", "Cell", "add_arguments", "bring_back", "common_words", "mean_and_error", "run"]

ROOT = Path(__file__).resolve().parents[1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that every grid has."""
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default 2)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run (default 1)")
    parser.add_argument("--data-dir", help="folder of the data sets")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the run folders (default runs)")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder for the result file")


def common_words(chosen: argparse.Namespace) -> list[str]:
    """Returns what those options mean to `regrow train`."""
    words = ["--threads", str(chosen.threads)]
    return words + (["--data-dir", chosen.data_dir] if chosen.data_dir else [])


def run(
    cells: Sequence[Cell],
    jobs: int,
    file: Path,
    contents: Callable[[list[dict[str, Any]]], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
) -> int:
    """Runs what is missing, and writes the result file after every run; the exit code.

    Args:
        cells: the whole grid. jobs: runs side by side.
        file: the result file. contents: what it holds beside command, missing, failed and rows, from the rows.
        show: prints the finished content.
    """
    outcome = run_grid(cells, jobs, lambda so_far: _write(file, cells, so_far, contents))
    show(_write(file, cells, outcome, contents))
    print(f"results in {file}")
    for line in _failures(outcome):
        print(line)
    if outcome.stopped:
        print("stopped; the same command goes on where it was")
        return INTERRUPTED
    return 1 if outcome.failed else 0


def bring_back(file: Path, cells: Sequence[Cell]) -> None:
    """Gives finished runs that have no folder on this machine theirs again, with the summary that the result file has.

    For grids whose folder names say all that a run depends on: what has such a name is not trained anew.
    """
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    finished = {row.pop("run"): row for row in rows}
    for cell in cells:
        if cell.folder.name in finished and not cell.folder.exists():
            cell.folder.mkdir(parents=True)
            with write_atomically(cell.finished) as temporary:
                temporary.write_text(json.dumps(finished[cell.folder.name], indent=1) + "\n")


def _failures(outcome: Outcome) -> list[str]:
    return [f"{cell}: {reason}" for cell, reason in outcome.failed.items()]


def _write(file: Path, cells: Sequence[Cell], outcome: Outcome, contents: Callable) -> dict[str, Any]:
    rows = [{"run": cell.folder.name, **summary} for cell in cells if (summary := cell.summary)]
    program = os.path.relpath(sys.modules["__main__"].__file__ or "", ROOT)
    content = {
        "command": shlex.join(["python", program, *sys.argv[1:]]),
        **contents(rows),
        "missing": [str(cell) for cell in cells if not cell.summary],
        "failed": _failures(outcome),
        "rows": rows,
    }
    with write_atomically(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    return content
