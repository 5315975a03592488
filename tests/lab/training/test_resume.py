"""A run that was stopped, however it was, ends with the same bits as one that never was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.comparing import assert_same_run, without_times
from regrow.lab import Interrupted, Reporter, RunError, Settings, UsageError, train
from regrow.lab.training.folder import RunFolder
from regrow.lab.training.position import Position
from regrow.lab.training.progress import PlainLines

KILLED_IN_EPOCH_3 = """
import os, signal, sys
from regrow.lab import Reporter, make_settings, train

class Killer(Reporter):
    def batch(self, position):
        if position.epoch == 2 and position.batch > 10:
            os.kill(os.getpid(), signal.SIGKILL)

train(make_settings("digits-mlp", density=0.1, overrides=["epochs=4"]), out=sys.argv[1], threads=1, reporter=Killer())
"""


HOLDS_THE_FOLDER = """
import sys
from regrow.lab.training.folder import RunFolder

folder = RunFolder(sys.argv[1])
folder.cut_back(folder.checkpoint())
print("held", flush=True)
sys.stdin.read()
"""


class SignalAt(Reporter):
    """Sends this process a signal in the middle of an epoch."""

    def __init__(self, epoch: int, number: int = signal.SIGINT, batch: int = 17):
        self.at = epoch, batch
        self.number = number

    def batch(self, position: Position) -> None:
        if (position.epoch, position.batch) == self.at:
            os.kill(os.getpid(), self.number)


class Notes(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def untouched(short: Callable[..., Settings], tmp_path: Path) -> Path:
    """The folder of a run that nothing happened to."""
    train(short(), out=tmp_path / "untouched", threads=1)
    return tmp_path / "untouched"


def test_sigkill_in_the_middle_of_an_epoch(short: Callable[..., Settings], tmp_path: Path, untouched: Path):
    out = tmp_path / "run"
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_EPOCH_3, str(out)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(RunFolder(out).rows("metrics.jsonl")) == 2
    train(short(), out=out, resume=True)  # takes over the number of threads
    assert_same_run(untouched, out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_in_the_middle_of_an_epoch(
    short: Callable[..., Settings], tmp_path: Path, untouched: Path, number: int
):
    out = tmp_path / "run"
    for epoch in (0, 2):  # stopped twice
        with pytest.raises(Interrupted, match="saved in"):
            train(short(), out=out, resume=True, threads=1, reporter=SignalAt(epoch, number))
    checkpoint = RunFolder(out).checkpoint() or {}
    assert (checkpoint["position"]["epoch"], checkpoint["position"]["batch"]) == (2, 17)
    train(short(), out=out, resume=True)
    assert_same_run(untouched, out)


def test_a_signal_in_the_last_step_of_an_epoch(short: Callable[..., Settings], tmp_path: Path, capsys):
    """Plain lines have nothing to tell the time left from."""

    class Last(PlainLines):
        def batch(self, position: Position) -> None:
            if position.step == 2:
                os.kill(os.getpid(), signal.SIGINT)

    settings = short("batch_size=2000")  # an epoch is a step
    train(settings, out=tmp_path / "untouched", threads=1)
    with pytest.raises(Interrupted):
        train(settings, out=tmp_path / "run", threads=1, reporter=Last())
    train(settings, out=tmp_path / "run", resume=True, reporter=PlainLines())
    assert_same_run(tmp_path / "untouched", tmp_path / "run")
    assert [line.endswith("left") for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")] == [
        *(True, False, True, True)
    ]


def test_dense_runs_resume_too(short: Callable[..., Settings], tmp_path: Path):
    settings = short(method="dense")
    train(settings, out=tmp_path / "untouched", threads=1)
    with pytest.raises(Interrupted):
        train(settings, out=tmp_path / "run", threads=1, reporter=SignalAt(1))
    train(settings, out=tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "untouched", tmp_path / "run")


@pytest.mark.parametrize(
    "method",
    [
        "deep-rewiring",
        "dns",
        "snip",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("dsr", "rigl-itop", "mest", "top-kast")),
    ],
)
def test_runs_of_every_form_resume_too(short: Callable[..., Settings], tmp_path: Path, method: str):
    settings = short("epochs=3", method=method)
    train(settings, out=tmp_path / "untouched", threads=1)
    for epoch in (0, 1):
        with pytest.raises(Interrupted):
            train(settings, out=tmp_path / "run", resume=True, threads=1, reporter=SignalAt(epoch))
    train(settings, out=tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "untouched", tmp_path / "run")


def test_lottery_tickets_resume_within_a_round(short: Callable[..., Settings], tmp_path: Path):
    settings = short("epochs=2", "rewind_epochs=1", method="lottery", density=0.7)
    train(settings, out=tmp_path / "untouched", threads=1)
    with pytest.raises(Interrupted, match="round-0"):
        train(settings, out=tmp_path / "run", threads=1, reporter=SignalAt(0))
    with pytest.raises(Interrupted, match="round-0"):
        train(settings, out=tmp_path / "run", resume=True, threads=1, reporter=SignalAt(1))
    with pytest.raises(Interrupted, match="round-1"):
        train(settings, out=tmp_path / "run", resume=True, threads=1, reporter=SignalAt(1))
    train(settings, out=tmp_path / "run", resume=True, threads=1)
    assert_same_run(tmp_path / "untouched", tmp_path / "run")


def test_images_and_updates_within_the_epoch_resume_too(tiny: Callable[..., Settings], tmp_path: Path):
    schedule = ("epochs=2", "batch_size=8", "images=144", "update_every=17", "window=9", "warmup_epochs=1")
    settings = tiny(*schedule, "flops_budget=0.3")
    train(settings, out=tmp_path / "untouched", threads=1)
    for epoch, batch in ((0, 17), (1, 1), (1, 17)):  # after an update, before the window, after the last update
        with pytest.raises(Interrupted):
            train(settings, out=tmp_path / "run", resume=True, threads=1, reporter=SignalAt(epoch, batch=batch))
    train(settings, out=tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "untouched", tmp_path / "run")


def test_handlers_are_put_back(short: Callable[..., Settings], tmp_path: Path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted):
        train(short(), out=tmp_path / "run", reporter=SignalAt(0))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_finished_run_says_so_and_gives_its_summary(short: Callable[..., Settings], untouched: Path):
    before = {file.name: file.read_bytes() for file in untouched.iterdir()}
    reporter = Notes()
    summary = train(short(), out=untouched, resume=True, reporter=reporter)
    assert summary == json.loads(before["summary.json"])
    assert reporter.notes == [f"{untouched} is finished already"]
    assert {file.name: file.read_bytes() for file in untouched.iterdir()} == before


def test_jsonl_files_are_cut_back_to_the_checkpoint(short: Callable[..., Settings], tmp_path: Path, untouched: Path):
    """Killed between the lines of an epoch and its checkpoint: the lines are there, the checkpoint is older."""
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(short(), out=out, threads=1, reporter=SignalAt(2))
    for name in ("metrics.jsonl", "topology.jsonl"):
        with open(out / name, "a") as file:
            file.write('{"epoch": 3, "step": 123}\n{"half a li')
    (out / ".checkpoint.pt.abcdef").write_bytes(b"half a checkpoint")
    train(short(), out=out, resume=True)
    assert_same_run(untouched, out)
    assert not list(out.glob(".checkpoint*"))


def test_killed_before_the_first_checkpoint_starts_anew(
    short: Callable[..., Settings], tmp_path: Path, untouched: Path
):
    out = tmp_path / "run"
    out.mkdir()
    (out / "metrics.jsonl").write_text("half a li")
    train(short(), out=out, resume=True, threads=1)
    assert_same_run(untouched, out)


def test_killed_between_the_last_checkpoint_and_the_summary(
    short: Callable[..., Settings], tmp_path: Path, untouched: Path
):
    summary = json.loads((untouched / "summary.json").read_text())
    (untouched / "summary.json").unlink()
    assert without_times(train(short(), out=untouched, resume=True)) == without_times(summary)


def test_seconds_add_up(short: Callable[..., Settings], tmp_path: Path):
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(short(), out=out, reporter=SignalAt(3))
    position = (RunFolder(out).checkpoint() or {})["position"]
    summary = train(short(), out=out, resume=True)
    assert summary["train_seconds"] > position["train_seconds"] + position["epoch_seconds"]
    steps = sum(row["seconds"] + row["topology_seconds"] for row in RunFolder(out).rows("metrics.jsonl"))
    assert summary["train_seconds"] == pytest.approx(steps)


def test_other_settings_are_refused_and_named(short: Callable[..., Settings], untouched: Path):
    with pytest.raises(UsageError, match=r"seed: 0 there, 1 now; lr: 0\.1 there, 0\.2 now"):
        train(short("lr=0.2", seed=1), out=untouched, resume=True)
    with pytest.raises(UsageError, match="threads: 1 there, 3 now"):
        train(short(), out=untouched, resume=True, threads=3)


def test_a_broken_checkpoint_is_explained(short: Callable[..., Settings], tmp_path: Path):
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged or cut short.*there is no earlier checkpoint"):
        train(short(), out=tmp_path, resume=True)


def test_two_processes_do_not_train_in_one_folder(short: Callable[..., Settings], tmp_path: Path):
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(short(), out=out, reporter=SignalAt(1))
    holder = [sys.executable, "-c", HOLDS_THE_FOLDER, str(out)]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        before = {file.name: file.read_bytes() for file in out.iterdir()}
        with pytest.raises(RunError, match=r"another process trains in .*run; wait for it or stop it"):
            train(short(), out=out, resume=True)
        assert {file.name: file.read_bytes() for file in out.iterdir()} == before
        process.kill()
    assert train(short(), out=out, resume=True)["epochs"] == 4
