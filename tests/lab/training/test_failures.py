"""What ends a run is named in a line, and never gets into a checkpoint."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.comparing import assert_same_run
from regrow.lab import Reporter, RunError, Settings, train
from regrow.lab.errors import reason
from regrow.lab.training.folder import CHECKPOINT, PREVIOUS, SUMMARY, RunFolder
from regrow.lab.training.loss import LossSum
from regrow.lab.training.position import Position
from regrow.lab.training.session import Session


class Stopped(Exception):
    pass


class StopAt(Reporter):
    """Ends the run at the beginning of an epoch, and leaves its folder as a kill would."""

    def __init__(self, epoch: int):
        self.at = epoch

    def batch(self, position: Position) -> None:
        if position.epoch == self.at:
            raise Stopped


@pytest.fixture
def stopped(short: Callable[..., Settings], tmp_path: Path) -> Path:
    """The folder of a run that has done three epochs of four."""
    with pytest.raises(Stopped):
        train(short(), out=tmp_path / "run", threads=1, reporter=StopAt(3))
    return tmp_path / "run"


@pytest.mark.parametrize(("lost", "at"), [([], None), ([3], 43), ([1, 2], 41), ([5], 45)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_first_lost_loss_is_known(lost: list[int], at: int | None, value: float):
    losses = LossSum(1.5, 40, torch.device("cpu"))
    for number in range(1, 6):
        losses.add(torch.tensor(value if number in lost else 0.5), examples=2)
    assert losses.lost_step == at
    if not lost:
        assert losses.total == 1.5 + 5


@pytest.mark.parametrize("step", [82, 100])
def test_lost_weights_do_not_get_into_a_checkpoint(
    short: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    """The loss of the step that loses them is still a number; the next one's comes after the save of the epoch."""
    ordinary, done = Session.learn, 0

    def losing(session: Session, *args: Any) -> torch.Tensor:
        nonlocal done
        loss, done = ordinary(session, *args), done + 1
        if done == step:
            with torch.no_grad():
                next(session.model.parameters())[0, 0] = math.inf
        return loss

    monkeypatch.setattr(Session, "learn", losing)
    epoch, last = -(-step // 41), (step - 1) // 41 * 41
    found = step + (step % 41 > 0)  # by the next loss, or before the save
    message = rf"not finite (at|after) step {found} \(epoch {epoch}\).*good checkpoint is that of step {last}, "
    with pytest.raises(RunError, match=message):
        train(short("update_every=1000"), out=tmp_path / "run", threads=1)
    state = RunFolder(tmp_path / "run").checkpoint() or {}
    assert all(value.isfinite().all() for value in state["model"].values())


def test_killed_between_two_renames(short: Callable[..., Settings], tmp_path: Path, stopped: Path):
    os.replace(stopped / CHECKPOINT, stopped / PREVIOUS)
    train(short(), out=stopped, resume=True)
    train(short(), out=tmp_path / "untouched", threads=1)
    assert_same_run(tmp_path / "untouched", stopped)


def test_a_checkpoint_is_there_at_any_time(stopped: Path):
    steps = [(RunFolder(stopped).checkpoint() or {})["position"]["step"]]
    os.replace(stopped / PREVIOUS, stopped / CHECKPOINT)
    steps.append((RunFolder(stopped).checkpoint() or {})["position"]["step"])
    assert steps == [123, 82]


def test_a_damaged_summary_is_named(stopped: Path, short: Callable[..., Settings]):
    (stopped / SUMMARY).write_text('{"test_err')
    with pytest.raises(RunError, match=r"summary\.json is damaged .* delete it"):
        train(short(), out=stopped, resume=True)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (FileNotFoundError(2, "No such file or directory", "a"), "No such file or directory: a"),
        (OSError("on\ntwo lines"), "on two lines"),
        (ValueError(), "ValueError"),
        (
            OSError("Caught OSError.\nTraceback (most recent call last):\n  line 1\nOSError: no a.png\n"),
            "OSError: no a.png",
        ),
    ],
)
def test_reasons_are_one_line(error: Exception, text: str):
    assert reason(error) == text


def test_lottery_tickets_killed_in_their_last_copy(
    short: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = short("epochs=1", method="lottery", density=0.9)
    train(settings, out=tmp_path / "untouched", threads=1)

    def half(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:1000])
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", half)
        with pytest.raises(Stopped):
            train(settings, out=tmp_path / "run", threads=1)
    train(settings, out=tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "untouched", tmp_path / "run")
