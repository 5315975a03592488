"""A grid of training runs, side by side, each one `regrow train` in a process of its own (see `executors`).

Finished runs are kept, stopped ones resume from their checkpoint, failed ones are shown and do not stop the rest: run
the same grid again until it is whole.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regrow.lab.training.interrupt import StopSignal
from regrow.lab.training.progress import clock

from .cell_process import CellProcess, Place
from .grid_progress import GridProgress, terminal_progress

__all__ = ["Cell", "Outcome", "run_grid"]

INTERRUPTED = 130
STOPPED = "stopped"
BUSY = "is running in another process; wait for it, or stop it"


@dataclass(frozen=True)
class Cell:
    """One run: its name, its folder, the words after `regrow train`, and its epochs where they are known."""

    name: str
    folder: Path
    words: tuple[str, ...]
    epochs: int | None = None

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "regrow.lab", "train", *self.words, "--out", str(self.folder), "--resume"]

    @property
    def summary(self) -> dict[str, Any] | None:
        return json.loads(self.finished.read_text()) if self.finished.exists() else None

    @property
    def finished(self) -> Path:
        """The file that a run ends with."""
        return self.folder / "summary.json"

    @property
    def log(self) -> Path:
        """Returns where the run prints to."""
        return self.folder.with_name(self.folder.name + ".log")

    @property
    def done(self) -> float:
        """Share of its epochs that are done, 0 to 1."""
        if self.finished.exists():
            return 1.0
        metrics = self.folder / "metrics.jsonl"
        if self.epochs is None or not metrics.exists():
            return 0.0
        return min(metrics.read_bytes().count(b"\n") / self.epochs, 1.0)

    def __str__(self) -> str:
        return self.name


@dataclass
class Outcome:
    """The outcome of a grid.

    Attributes:
        failed: cell -> the reason, and where its log is.
        stopped: whether SIGINT or SIGTERM stopped it before the end.
    """

    failed: dict[Cell, str] = field(default_factory=dict)
    stopped: bool = False


def run_grid(
    cells: Sequence[Cell],
    jobs: int,
    after: Callable[[Outcome], None],
    place: Callable[[], Place] = CellProcess,
    progress: GridProgress | None = None,
) -> Outcome:
    """Runs the cells that are not finished yet; a line for each that ends.

    The first SIGINT or SIGTERM lets every run finish its step and save itself; a second one ends them at once.

    Args:
        cells: the whole grid.
        jobs: runs side by side, at least 1.
        after: called after each cell, to write files as the grid grows.
        place: makes the place of each run; default a process on this machine.
        progress: default a bar on a terminal, lines elsewhere.
    """
    todo = [cell for cell in cells if cell.summary is None]
    outcome = Outcome()
    with progress or terminal_progress() as shown, StopSignal() as stop:
        shown.start(todo, f"{len(cells)} runs, {len(cells) - len(todo)} finished before, {jobs} at a time")
        with closing(_Places(todo, jobs, stop, shown.tick, place).results()) as results:
            for cell, code, seconds in results:
                text = _describe(cell, code, stop.requested)
                if cell.summary is None and text != STOPPED:
                    outcome.failed[cell] = text
                after(outcome)
                shown.ended(cell, f"{text}, {clock(seconds)}", stop.requested)
        outcome.stopped = stop.requested and any(cell.summary is None for cell in cells)
    return outcome


def _describe(cell: Cell, code: int | None, stopping: bool) -> str:
    """Returns what became of a cell, in a line."""
    summary = cell.summary
    if summary:
        return f"test error {summary['test_error']:.2f} %"
    if code is None:
        return BUSY
    if stopping and code in (INTERRUPTED, -signal.SIGTERM):  # the latter: before its training began
        return STOPPED
    return f"FAILED, {_reason(cell.log, code)}, see {cell.log}"


def _reason(log: Path, code: int) -> str:
    """Why a run failed: the signal that ended it, else the last line that it printed."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {code}"


@dataclass
class _Places:
    """Runs cells side by side, and ends them when it is told to end."""

    cells: Sequence[Cell]
    jobs: int
    stop: StopSignal
    tick: Callable[[], None]
    place: Callable[[], Place]
    taken: set[Place] = field(default_factory=set)

    def results(self) -> Generator[tuple[Cell, int | None, float], None, None]:
        """Yields (cell, exit code, seconds) in this thread as cells end; the code is None of one that cannot start."""
        told = False
        with ThreadPoolExecutor(self.jobs) as pool:
            pending: set[Future[tuple[Cell, int | None, float]]] = {pool.submit(self._run, c) for c in self.cells}
            try:
                while pending:
                    ended, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                    if self.stop.requested and not told:
                        told = True
                        self._tell()
                    self.tick()
                    yield from (future.result() for future in ended)
            except BaseException:  # a second Ctrl-C
                self.stop.requested = True
                self._tell()
                raise

    def _tell(self) -> None:
        """Lets each run finish its step and save itself; a second call ends it at once."""
        for place in list(self.taken):
            place.stop()

    def _run(self, cell: Cell) -> tuple[Cell, int | None, float]:
        if self.stop.requested:
            return cell, INTERRUPTED, 0.0
        began = time.monotonic()
        place = self.place()
        self.taken.add(place)
        try:
            return cell, place.run(cell.command, cell.log, cell.finished), time.monotonic() - began
        finally:
            self.taken.discard(place)
