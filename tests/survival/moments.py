"""Moments of a run, counted in lines of Python, so that a kill can be repeated."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from types import CodeType, FrameType
from typing import Any

from regrow.lab.training import folder, lottery, saving
from regrow.lab.training import loop as training

PHASES: dict[str, tuple[Callable[..., Any], ...]] = {
    "starting": (folder.open_folder, saving.begin, saving.restore),
    "training": (training._Run._train_epoch,),
    "updating": (training._Run._update_topology,),
    "saving": (saving.save,),
    "finishing": (training._Run.finish, lottery._copy_files),
}
"""What a run does, and the functions that do it; training holds the updates within an epoch."""

Lines = dict[str, list[int]]
"""By phase, the lines that run in each of its calls."""


@dataclass(frozen=True)
class Moment:
    """The `line`-th line that runs in the `call`-th call of a phase, both from 1; or the call's end if it has fewer."""

    phase: str
    call: int
    line: int

    def __str__(self) -> str:
        return f"{self.phase} {self.call}:{self.line}"


def draw_moment(random: Random, phase: str, lines: Lines) -> Moment:
    """One among the first calls of a phase, so that a run that is killed again and again still comes forward."""
    counts = lines[phase][:3]
    call = random.randrange(len(counts))
    return Moment(phase, call + 1, random.randint(1, counts[call]))


class LineCounter:
    """A trace function that counts the lines of each call of each phase, in `lines`."""

    def __init__(self) -> None:
        self.lines: Lines = {phase: [] for phase in PHASES}
        self._phases = {function.__code__: phase for phase, parts in PHASES.items() for function in parts}
        self._open: list[tuple[FrameType, str]] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "call" and (phase := self._phases.get(frame.f_code)):
            self._open.append((frame, phase))
            self.lines[phase].append(0)
        elif event == "line":
            for _, phase in self._open:
                self.lines[phase][-1] += 1
        elif event == "return" and self._open and self._open[-1][0] is frame:
            self._open.pop()
        return self if self._open else None


class Killer:
    """A trace function that kills this process at a moment."""

    def __init__(self, moment: Moment):
        self._codes: set[CodeType] = {function.__code__ for function in PHASES[moment.phase]}
        self._calls, self._lines = moment.call, moment.line
        self._within: FrameType | None = None

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if self._within is None:
            self._calls -= event == "call" and frame.f_code in self._codes
            if self._calls:
                return None
            self._within = frame
        self._lines -= event == "line"
        if not self._lines or (event == "return" and frame is self._within):
            os.kill(os.getpid(), signal.SIGKILL)
        return self
