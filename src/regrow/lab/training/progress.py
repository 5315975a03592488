"""Progress of a run: silent, in plain lines, or as a progress bar."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regrow.lab.recipes.settings import Settings

    from .position import Position

__all__ = ["PlainLines", "ProgressBar", "Reporter", "clock", "terminal_reporter"]


def clock(seconds: float) -> str:
    """Seconds as a person reads them.

    Example:
        >>> clock(75), clock(3675)
        ('1:15', '1:01:15')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Reporter:
    """Prints nothing; the interface of the others. A context manager, open while the run trains."""

    def start(self, settings: Settings, position: Position, steps_per_epoch: int) -> None:
        """Called when training starts or resumes at `position`."""

    def batch(self, position: Position) -> None:
        """Some batches have been done."""

    def epoch(self, row: dict[str, Any]) -> None:
        """An epoch has ended; `row` is its line of metrics.jsonl."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        pass


class PlainLines(Reporter):
    """Prints a line an epoch, for files and pipes."""

    def start(self, settings: Settings, position: Position, steps_per_epoch: int) -> None:
        self._epochs = settings.recipe.epochs
        self._first = position.epoch + position.batch / steps_per_epoch
        self._began = time.monotonic()
        if position.step:
            self.note(f"resuming at step {position.step}")

    def epoch(self, row: dict[str, Any]) -> None:
        elapsed, done = time.monotonic() - self._began, row["epoch"] - self._first
        text = f"epoch {row['epoch']}/{self._epochs}  {figures(row)}"
        if done:  # nothing, if a run resumes after the last step of an epoch
            text += f"  {clock(elapsed / done * (self._epochs - row['epoch']))} left"
        self.note(text)

    def note(self, text: str) -> None:
        print(text, flush=True)


class ProgressBar(Reporter):
    """A bar that moves within the epoch, on a terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),  # takes what the others leave
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5)),
            TextColumn("left", table_column=Column(no_wrap=True)),
            expand=True,
        )

    def start(self, settings: Settings, position: Position, steps_per_epoch: int) -> None:
        self._epochs = settings.recipe.epochs
        total = self._epochs * steps_per_epoch
        self._task = self._progress.add_task("", total=total, completed=position.step, figures="")
        self._describe(position.epoch + 1)

    def batch(self, position: Position) -> None:
        self._progress.update(self._task, completed=position.step)

    def epoch(self, row: dict[str, Any]) -> None:
        self._progress.update(self._task, completed=row["step"], figures=figures(row))
        self._describe(min(row["epoch"] + 1, self._epochs))

    def note(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _describe(self, epoch: int) -> None:
        self._progress.update(self._task, description=f"epoch {epoch}/{self._epochs}")

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self._progress.stop()


def figures(row: dict[str, Any]) -> str:
    """The numbers of an epoch in a line."""
    validation = f"validation error {row['validation_error']:.2f} %, loss {row['validation_loss']:.4f}"
    return f"loss {row['loss']:.4f}  {validation}  density {row['density']:.3g}  data wait {row['data_wait_share']:.0%}"


def terminal_reporter() -> Reporter:
    """A progress bar on a terminal, plain lines elsewhere."""
    return ProgressBar() if sys.stdout.isatty() else PlainLines()
