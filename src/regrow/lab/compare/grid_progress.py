"""Progress of a grid of runs: a line for each run that ends, and on a terminal a bar below them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from regrow.lab.training.progress import clock

__all__ = ["GridBar", "GridProgress", "terminal_progress"]


class Cell(Protocol):
    """A run as the progress shows it: its name, and the share of it that is done."""

    @property
    def done(self) -> float: ...

    def __hash__(self) -> int: ...


class GridProgress:
    """Lines on stdout. A context manager, open while the grid runs."""

    def start(self, todo: Sequence[Cell], text: str) -> None:
        """The grid begins; `todo` are the runs that are not finished."""
        self._todo, self._ended, self._began = todo, set[Cell](), time.monotonic()
        self._before = self._done()
        self.say(text)

    def ended(self, cell: Cell, text: str, stopping: bool) -> None:
        """A run has ended; `stopping` says that all are to end."""
        self._ended.add(cell)
        left = f"; {self.left()}" if len(self._ended) < len(self._todo) and not stopping else ""
        self.say(f"[{len(self._ended)}/{len(self._todo)}] {cell}: {text}{left}")

    def tick(self) -> None:
        """Some time has passed."""

    def left(self) -> str:
        """The time left at the present speed; current runs count by their epochs."""
        done = self._done()
        if done <= self._before:
            return "time left not known yet"
        left = (time.monotonic() - self._began) / (done - self._before) * (len(self._todo) - done)
        return f"about {clock(left)} left"

    def say(self, text: str) -> None:
        print(text, flush=True)

    def _done(self) -> float:
        """Runs that have ended, however they did, and the parts of the others."""
        return sum(1.0 if cell in self._ended else cell.done for cell in self._todo)

    def __enter__(self) -> GridProgress:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        pass


class GridBar(GridProgress):
    """The same, and a bar that moves with the epochs of the current runs."""

    EVERY = 2.0
    """Seconds between two looks at the runs' files."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = TextColumn("{task.description}"), BarColumn(bar_width=None)
        self._bar = Progress(*columns, expand=True, transient=True)
        self._looked = 0.0

    def start(self, todo: Sequence[Cell], text: str) -> None:
        super().start(todo, text)
        self._task = self._bar.add_task("", total=max(len(todo), 1))

    def tick(self) -> None:
        if time.monotonic() - self._looked > self.EVERY:
            self._looked = time.monotonic()
            text = f"{len(self._ended)} of {len(self._todo)} runs, {self.left()}"
            self._bar.update(self._task, completed=self._done(), description=text)

    def say(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> GridBar:
        self._bar.start()
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self._bar.stop()


def terminal_progress() -> GridProgress:
    """A bar on a terminal, lines elsewhere."""
    return GridBar() if sys.stdout.isatty() else GridProgress()
