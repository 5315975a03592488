"""A trial: one run to which something is done, beside the same run undisturbed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import torch

from lab.comparing import assert_same_run
from regrow.lab import Reporter, RunError, Settings, train
from regrow.lab.training.folder import CHECKPOINT, RunFolder
from regrow.lab.training.position import Position

from .lives import count_lines, live, live_together
from .moments import Lines, Moment
from .runs import VARIANTS, write_examples

KILLED = -9


class Bench:
    """A folder with the data set and an undisturbed run of each variant, made when it is first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._seconds: dict[str, float] = {}
        folder.mkdir(parents=True, exist_ok=True)
        write_examples(folder)

    def lines(self, variant: str) -> Lines:
        return count_lines(VARIANTS[variant], self.undisturbed(variant), self.folder)

    def undisturbed(self, variant: str) -> Path:
        out = self.folder / "undisturbed" / variant
        out.parent.mkdir(exist_ok=True)
        count_lines(VARIANTS[variant], out, self.folder)
        return out

    def seconds(self, variant: str) -> float:
        """How long a run of the variant lives, measured once."""
        if variant not in self._seconds:
            self.undisturbed(variant)  # so that what only the first life of all imports is not counted
            with TemporaryDirectory() as out:
                began = time.monotonic()
                assert live(VARIANTS[variant], Path(out), self.folder) == 0
                self._seconds[variant] = time.monotonic() - began
        return self._seconds[variant]


class Stopped(Exception):
    """A run ends here, and leaves its folder as a kill would."""


class At(Reporter):
    """Does something at the beginning of an epoch; keeps what the run says."""

    def __init__(self, epoch: int | None = None, action: Callable[[], object] = lambda: None):
        self._epoch, self._action = epoch, action
        self.notes: list[str] = []

    def batch(self, position: Position) -> None:
        if position.epoch == self._epoch:
            self._epoch = None
            self._action()

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass
class Trial:
    """One run under a fault.

    Attributes:
        seed: decides everything but the clock. out: the run's folder. most_kills: after which the run is left alone.
        kills: how often it was killed. events: what was done to it. causes: the errors it stopped with.
    """

    bench: Bench
    variant: str
    seed: str
    out: Path
    most_kills: int = 4
    kills: int = 0
    events: list[str] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)

    @property
    def settings(self) -> Settings:
        return VARIANTS[self.variant]

    @property
    def checkpoint_size(self) -> int:
        return (self.bench.undisturbed(self.variant) / CHECKPOINT).stat().st_size

    def draw_epoch(self) -> int:
        """The index of an epoch after the first and before the last."""
        return self.random.randrange(1, self.settings.recipe.epochs - 1)

    def note(self, event: str) -> None:
        self.events.append(event)

    def kill_at(self, moment: Moment) -> bool:
        """Whether the run was killed then; it may have ended before."""
        return self._lived(live(self.settings, self.out, self.bench.folder, moment), str(moment))

    def kill_one_of_two(self, moment: Moment) -> bool:
        """Whether one of two processes was killed then; the other stops with a line that names the cause."""
        (code, cause), (killed, _) = live_together(self.settings, self.out, self.bench.folder, moment)
        if not self._lived(killed, f"rank 1: {moment}"):
            return False
        assert code == 1, f"exit code {code} of the rank that is left"
        assert re.search("one of the 2 processes is gone", cause), cause
        assert "\n" not in cause, cause
        self.causes.append(cause.replace(str(self.out), "run"))
        return True

    def ends_together_as_undisturbed(self) -> None:
        """Both processes go on to the end, and the run is that of two undisturbed ones, to the bit."""
        for out in (self.bench.folder / "undisturbed" / "two-processes", self.out):
            codes = live_together(self.settings, out, self.bench.folder)
            assert [code for code, _ in codes] == [0, 0], codes
        assert_same_run(self.bench.folder / "undisturbed" / "two-processes", self.out)

    def kill_after(self, seconds: float) -> bool:
        """Whether the run was killed after so long; it may have ended before."""
        return self._lived(live(self.settings, self.out, self.bench.folder, after=seconds), f"{seconds:.3f} s")

    def _lived(self, code: int, event: str) -> bool:
        assert code in (0, KILLED), f"exit code {code}"
        if code == KILLED:
            self.kills += 1
            self.note(event)
        return code == KILLED

    def stop_late(self) -> Path:
        """Trains some epochs, so that there are two checkpoints; the last one of them."""

        def stop() -> None:
            raise Stopped

        epoch = self.draw_epoch()
        self.note(f"stopped in epoch {epoch + 1}")
        try:
            self._train(self.settings, At(epoch, stop))
        except Stopped:
            (checkpoint,) = self.out.rglob(CHECKPOINT)
            return checkpoint
        raise AssertionError("it did not stop")

    def flip(self, file: Path) -> None:
        """Flips a bit of a file."""
        content = bytearray(file.read_bytes())
        at = self.random.randrange(8 * len(content))
        content[at // 8] ^= 1 << at % 8
        file.write_bytes(content)
        self.note(f"{file.name}, bit {at} of {8 * len(content)}")

    def picture(self) -> dict[Path, bytes]:
        """Every file's content."""
        return {file: file.read_bytes() for file in self.out.rglob("*") if file.is_file()}

    def stops(self, settings: Settings, cause: str, reporter: Reporter | None = None, whole: bool = True) -> None:
        """The run stops with one line that names the cause, and its last checkpoint, if it is `whole`, is good."""
        try:
            self._train(settings, reporter or Reporter())
        except RunError as error:
            text = str(error)
        else:
            raise AssertionError(f"the run did not stop; it should with: {cause}")
        assert re.search(cause, text), text
        assert "\n" not in text, text
        self.causes.append(text.replace(str(self.out), "run").replace(str(self.bench.folder), "data"))
        for file in self.out.rglob(CHECKPOINT) if whole else ():
            state = RunFolder(file.parent).checkpoint() or {}
            assert all(value.isfinite().all() for value in state["model"].values() if isinstance(value, torch.Tensor))

    def ends_as_undisturbed(self, saying: str = "") -> None:
        """The run goes on to its end, and is the undisturbed one, to the bit."""
        reporter = At()
        self._train(self.settings, reporter)
        assert any(saying in note for note in reporter.notes) or not saying, reporter.notes
        assert_same_run(self.bench.undisturbed(self.variant), self.out)

    def _train(self, settings: Settings, reporter: Reporter) -> None:
        train(settings, out=self.out, data_dir=self.bench.folder, resume=True, threads=1, reporter=reporter)
