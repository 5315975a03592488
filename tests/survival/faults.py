"""What befalls a run, and what has to come of it.

A fault is a function of a `Trial`, which does it, and fails where the run is not as it would have been without. Each
may be met with the same seed again. A new one is a function and a row of `FAULTS`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from regrow.lab import Settings
from regrow.lab.training.folder import CHECKPOINT, PREVIOUS

from .disk import FILLER, file_limit, fill, small_disk
from .moments import draw_moment
from .runs import EPOCHS, EXAMPLES, STEPS, stricken
from .trial import At, Trial

FILE = r"\S+\.(pt|jsonl|npz|json);"
"""The name of a file of a run, in an error."""


def killed(phase: str, trial: Trial) -> None:
    """Kills the run in a phase, again and again, and lets it end."""
    lines = trial.bench.lines(trial.variant)
    if phase == "starting":  # there has to be something to go on from
        trial.kill_at(draw_moment(trial.random, "training", lines))
    while trial.kills < trial.most_kills and trial.kill_at(draw_moment(trial.random, phase, lines)):
        pass
    trial.ends_as_undisturbed()


def killed_any_time(trial: Trial) -> None:
    """Kills the run by the clock."""
    span = trial.bench.seconds(trial.variant) / 2
    while not trial.kill_after(trial.random.uniform(0, span)):  # the machine was slower when the run was timed
        shutil.rmtree(trial.out)
        span /= 2
    while trial.kills < trial.most_kills and trial.kill_after(trial.random.uniform(0, span)):
        pass
    trial.ends_as_undisturbed()


def truncated(trial: Trial) -> None:
    """The last checkpoint is cut short; the run goes on from the one before."""
    checkpoint = trial.stop_late()
    with open(checkpoint, "rb+") as file:
        file.truncate(trial.random.randrange(checkpoint.stat().st_size))
    trial.note(f"{checkpoint.stat().st_size} bytes left")
    trial.ends_as_undisturbed(saying=f"{CHECKPOINT} is damaged")


def flipped(trial: Trial) -> None:
    """A bit of the last checkpoint flips; the run goes on from the one before."""
    trial.flip(trial.stop_late())
    trial.ends_as_undisturbed(saying=f"{CHECKPOINT} is damaged")


def both_flipped(trial: Trial) -> None:
    """A bit flips in both checkpoints: the run is refused, and nothing is changed."""
    checkpoint = trial.stop_late()
    kept = {file: file.read_bytes() for file in (checkpoint, checkpoint.with_name(PREVIOUS))}
    for file in kept:
        trial.flip(file)
    damaged = trial.picture()
    trial.stops(trial.settings, f"{CHECKPOINT} is damaged.*{PREVIOUS} is damaged", whole=False)
    assert trial.picture() == damaged
    for file, content in kept.items():
        file.write_bytes(content)
    trial.ends_as_undisturbed()


def disk_full(trial: Trial) -> None:
    """The disk fills up in the middle of an epoch; there is room again later."""
    disk = trial.out.with_suffix(".disk")
    with small_disk(disk):
        trial.out = disk / "run"
        full = At(trial.draw_epoch(), lambda: fill(disk, trial.random.randrange(trial.checkpoint_size)))
        trial.stops(trial.settings, rf"No space left on device: {FILE}", reporter=full)
        (disk / FILLER).unlink()
        trial.ends_as_undisturbed()


def file_too_large(trial: Trial) -> None:
    """Files cannot grow any more, as with a quota."""
    with file_limit() as set_limit:
        limit = At(trial.draw_epoch(), lambda: set_limit(trial.random.randrange(trial.checkpoint_size)))
        trial.stops(trial.settings, rf"File too large: {FILE}", reporter=limit)
    trial.ends_as_undisturbed()


def loss_lost(trial: Trial) -> None:
    """A batch makes the loss NaN; with whole data the run goes on from the last good checkpoint."""
    step = trial.random.randint(1, STEPS * EPOCHS // 2)
    when = rf"the loss is not finite at step {step} \(epoch {-(-step // STEPS)}\)"
    trial.stops(_stricken_at(trial, step, lambda x: x * torch.nan), when)
    trial.ends_as_undisturbed()


def data_vanish(trial: Trial) -> None:
    """The data set vanishes, under the run that reads it and for the one that would go on; then it is there again."""
    step = trial.random.randint(1, STEPS * EPOCHS // 2)

    def vanish(x: Tensor) -> Tensor:
        raise FileNotFoundError(2, "No such file or directory", f"image-{step}.jpeg")

    trial.stops(_stricken_at(trial, step, vanish), f"No such file or directory: image-{step}.jpeg")
    examples = trial.bench.folder / EXAMPLES
    away = examples.rename(examples.with_suffix(".away"))
    try:
        trial.stops(trial.settings, f"No such file or directory: .*{EXAMPLES}")
    finally:
        away.rename(examples)
    trial.ends_as_undisturbed()


def rank_dies(trial: Trial) -> None:
    """One of two processes that train together is killed, again and again; then both go on to the end."""
    trial.variant = "compressed"
    lines = trial.bench.lines(trial.variant)
    while trial.kills < min(trial.most_kills, 2) and trial.kill_one_of_two(
        draw_moment(trial.random, "training", lines)
    ):
        pass
    trial.ends_together_as_undisturbed()


def _stricken_at(trial: Trial, step: int, strike: Callable[[Tensor], Tensor]) -> Settings:
    """The trial's run with a training batch, counted from 1, on which something falls."""
    trial.note(f"step {step}")
    left = step

    def at_step(x: Tensor) -> Tensor:
        nonlocal left
        left -= len(x) > 2  # two examples measure FLOPs
        return strike(x) if left == 0 and len(x) > 2 else x

    return stricken(trial.settings, at_step)


class Fault(NamedTuple):
    """How a fault happens, and in how many trials of the whole suite."""

    happen: Callable[[Trial], None]
    trials: int


FAULTS = {
    "killed while starting or resuming": Fault(partial(killed, "starting"), 10),
    "killed in training": Fault(partial(killed, "training"), 12),
    "killed in a topology update": Fault(partial(killed, "updating"), 12),
    "killed while saving a checkpoint": Fault(partial(killed, "saving"), 12),
    "killed while finishing": Fault(partial(killed, "finishing"), 8),
    "killed at any time": Fault(killed_any_time, 12),
    "checkpoint cut short": Fault(truncated, 8),
    "checkpoint with a flipped bit": Fault(flipped, 8),
    "both checkpoints with a flipped bit": Fault(both_flipped, 4),
    "disk full": Fault(disk_full, 8),
    "file too large": Fault(file_too_large, 4),
    "loss NaN": Fault(loss_lost, 8),
    "data set vanishes": Fault(data_vanish, 8),
    "one of two processes killed": Fault(rank_dies, 6),
}
