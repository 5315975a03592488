"""A grid of training runs, each one `regrow train` in a process of its own.

Finished runs are kept, stopped ones go on from their checkpoint, failed ones are shown and do not stop the rest: run
the same command again until the grid is whole. The result file is written anew after every run.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from regrow.files import write_atomically
from regrow.recipes.progress import clock

ROOT = Path(__file__).resolve().parents[1]
INTERRUPTED = 130


@dataclass(frozen=True)
class Cell:
    """One run: its name, its folder, and the words after `regrow train`."""

    name: str
    folder: Path
    words: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "regrow.recipes", "train", *self.words, "--out", str(self.folder), "--resume"]

    @property
    def summary(self) -> dict[str, Any] | None:
        file = self.folder / "summary.json"
        return json.loads(file.read_text()) if file.exists() else None

    @property
    def log(self) -> Path:
        """Where the run prints to."""
        return self.folder.with_name(self.folder.name + ".log")

    def __str__(self) -> str:
        return self.name


@dataclass
class Grid:
    """Runs cells side by side, and ends their processes when it is told to end."""

    cells: Sequence[Cell]
    jobs: int
    stopped: bool = False
    processes: set[subprocess.Popen[bytes]] = field(default_factory=set)

    def run(self, done: Callable[[Cell, int, float], None]) -> None:
        """Calls done(cell, exit code, seconds) in this thread as cells end."""
        signal.signal(signal.SIGINT, self.stop)
        signal.signal(signal.SIGTERM, self.stop)
        with ThreadPoolExecutor(self.jobs) as pool:
            for future in as_completed([pool.submit(self._run_cell, cell) for cell in self.cells]):
                done(*future.result())

    def stop(self, *_: Any) -> None:
        """Each run finishes its step and saves itself."""
        self.stopped = True
        for process in list(self.processes):
            process.send_signal(signal.SIGTERM)

    def _run_cell(self, cell: Cell) -> tuple[Cell, int, float]:
        began = time.monotonic()
        if self.stopped:
            return cell, INTERRUPTED, 0.0
        cell.folder.parent.mkdir(parents=True, exist_ok=True)
        with open(cell.log, "ab") as log:
            # in a session of its own, so that Ctrl-C reaches it once, through stop()
            process = subprocess.Popen(cell.command, stdout=log, stderr=log, start_new_session=True)
            self.processes.add(process)
            code = process.wait()
        self.processes.discard(process)
        return cell, code, time.monotonic() - began


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that every grid has."""
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (default 2)")
    parser.add_argument("--threads", type=int, default=1, help="of each run (default 1)")
    parser.add_argument("--data-dir", help="as for regrow train")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run folders go (default runs)")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="where the result file goes")


def common_words(chosen: argparse.Namespace) -> list[str]:
    """What those options mean to `regrow train`."""
    words = ["--threads", str(chosen.threads)]
    return words + (["--data-dir", chosen.data_dir] if chosen.data_dir else [])


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and its standard error where there are two values or more."""
    return mean(values), stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


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
    todo = [cell for cell in cells if cell.summary is None]
    grid, failed, began = Grid(todo, jobs), [], time.monotonic()
    print(
        f"{len(cells)} runs, {len(cells) - len(todo)} finished before, {jobs} at a time; results in {file}", flush=True
    )
    finished = 0

    def done(cell: Cell, code: int, seconds: float) -> None:
        nonlocal finished
        finished += 1
        summary = cell.summary
        if summary:
            outcome = f"test error {summary['test_error']:.2f} %"
        elif grid.stopped and code in (INTERRUPTED, -signal.SIGTERM):  # the latter: before its training began
            outcome = "stopped"
        else:
            outcome = f"FAILED with exit code {code}, see {cell.log}"
            failed.append(f"{cell}: {outcome}")
        _write(file, cells, failed, contents)
        left = (time.monotonic() - began) / finished * (len(todo) - finished)
        print(f"[{finished}/{len(todo)}] {cell}: {outcome}, {clock(seconds)}; about {clock(left)} left", flush=True)

    grid.run(done)
    show(_write(file, cells, failed, contents))
    for line in failed:
        print(line)
    if grid.stopped:
        print("stopped; the same command goes on where it was")
        return INTERRUPTED
    return 1 if failed else 0


def _write(file: Path, cells: Sequence[Cell], failed: Sequence[str], contents: Callable) -> dict[str, Any]:
    rows = [summary for cell in cells if (summary := cell.summary)]
    program = os.path.relpath(sys.modules["__main__"].__file__ or "", ROOT)
    content = {
        "command": shlex.join(["python", program, *sys.argv[1:]]),
        **contents(rows),
        "missing": [str(cell) for cell in cells if not cell.summary],
        "failed": list(failed),
        "rows": rows,
    }
    with write_atomically(file) as temporary:
        Path(temporary).write_text(json.dumps(content, indent=1) + "\n")
    return content
