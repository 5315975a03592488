"""Grids of runs: one failure stops nothing else, Ctrl-C loses nothing, and no run is trained twice at a time."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from regrow.lab.compare.cell_process import CellProcess, Place
from regrow.lab.compare.executors import executor
from regrow.lab.compare.grid import BUSY, Cell, Outcome, run_grid
from regrow.lab.errors import RunError

FINISH = "import sys; open(sys.argv[1] + '/summary.json', 'w').write('{\"test_error\": 4.5}')"
FAIL = "import sys; print('noise'); sys.exit('error: no luck')"
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
SAVE_ON_SIGTERM = """
import signal, sys, time
def save(*_):
    open(sys.argv[1] + "/saved", "w")
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
open(sys.argv[1] + "/started", "w")
time.sleep(60)
"""


@dataclass(frozen=True)
class Program(Cell):
    """A cell that runs a few lines of Python instead of a training."""

    @property
    def command(self) -> list[str]:
        self.folder.mkdir(exist_ok=True)
        return [sys.executable, "-c", self.words[0], str(self.folder)]


MakePlace = Callable[[], Place]


def program(folder: Path, name: str, text: str) -> Program:
    return Program(name, folder / name, (text,))


def run(cells: list[Program], jobs: int = 2, place: MakePlace = CellProcess) -> tuple[Outcome, int]:
    """The outcome, and how often `after` was called."""
    calls: list[Outcome] = []
    return run_grid(cells, jobs, calls.append, place), len(calls)


@pytest.fixture(params=["processes", pytest.param("ray", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest) -> MakePlace:
    """Makes places of each executor."""
    return CellProcess if request.param == "processes" else request.getfixturevalue("ray_place")


def test_a_failed_run_is_shown_with_its_reason_and_does_not_stop_the_rest(tmp_path: Path, capsys, place: MakePlace):
    texts = {"bad": FAIL, "killed": KILLED, "good": FINISH, "better": FINISH}
    cells = [program(tmp_path, name, text) for name, text in texts.items()]
    outcome, calls = run(cells, place=place)
    assert calls == 4
    assert not outcome.stopped
    assert {str(cell): why for cell, why in outcome.failed.items()} == {
        "bad": f"FAILED, error: no luck, see {tmp_path / 'bad.log'}",
        "killed": f"FAILED, killed by SIGKILL, see {tmp_path / 'killed.log'}",
    }
    assert (tmp_path / "bad.log").read_text() == "noise\nerror: no luck\n"
    output = capsys.readouterr().out
    assert output.startswith("4 runs, 0 finished before, 2 at a time\n")
    assert "good: test error 4.50 %" in output
    assert "[4/4]" in output
    assert output.count(" left") == 3


def test_finished_runs_are_kept_and_failed_ones_tried_again(tmp_path: Path, capsys):
    run([program(tmp_path, "a", FINISH), program(tmp_path, "b", FAIL)])
    before = (tmp_path / "a" / "summary.json").stat().st_mtime_ns
    outcome, calls = run([program(tmp_path, "a", FAIL), program(tmp_path, "b", FINISH)])
    assert (outcome.failed, calls) == ({}, 1)
    assert (tmp_path / "a" / "summary.json").stat().st_mtime_ns == before
    assert "2 runs, 1 finished before" in capsys.readouterr().out


def wait_for(file: Path) -> None:
    """Until a cell has written it; two minutes are long enough on any machine."""
    until = time.monotonic() + 120
    while not file.exists():
        if time.monotonic() > until:
            raise TimeoutError(f"{file} has not come")
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_runs_save_themselves_and_starts_no_more(tmp_path: Path, number: int, place: MakePlace):
    cells = [program(tmp_path, name, SAVE_ON_SIGTERM) for name in ("first", "second")]
    before = signal.getsignal(number)

    def stop_once_it_runs() -> None:
        wait_for(tmp_path / "first" / "started")
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop_once_it_runs)
    thread.start()
    outcome, _ = run(cells, jobs=1, place=place)
    thread.join()
    assert outcome == Outcome({}, stopped=True)
    assert (tmp_path / "first" / "saved").exists()
    assert not (tmp_path / "second").exists()
    assert signal.getsignal(number) is before


def test_a_run_that_another_process_trains_is_left_alone(tmp_path: Path, place: MakePlace):
    cell = program(tmp_path, "cell", FINISH)
    with open(cell.log, "ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        outcome, _ = run([cell], place=place)
    assert outcome.failed == {cell: BUSY}
    assert cell.summary is None


LEFT_BEHIND = """
import sys
from pathlib import Path
from lab.compare.test_grid import Program, SAVE_ON_SIGTERM, run
run([Program("cell", Path(sys.argv[1]) / "cell", ("import os; print(os.getpid(), flush=True)" + SAVE_ON_SIGTERM,))])
"""


def test_a_run_that_outlives_a_killed_grid_is_left_alone(tmp_path: Path):
    words = [sys.executable, "-c", LEFT_BEHIND, str(tmp_path)]
    cell = program(tmp_path, "cell", FINISH)
    with subprocess.Popen(words, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}) as grid:
        wait_for(tmp_path / "cell" / "started")
        grid.kill()
    outcome, _ = run([cell])
    assert outcome.failed == {cell: BUSY}
    os.kill(int(cell.log.read_text()), signal.SIGTERM)
    wait_for(tmp_path / "cell" / "saved")


def test_the_share_that_is_done_is_read_from_the_epochs(tmp_path: Path):
    cell = Cell("cell", tmp_path, (), epochs=4)
    assert cell.done == 0
    (tmp_path / "metrics.jsonl").write_text("{}\n{}\n{}\n")
    assert cell.done == 0.75
    (tmp_path / "summary.json").write_text(json.dumps({"test_error": 1.0}))
    assert cell.done == 1


@pytest.mark.slow
def test_a_run_on_a_machine_that_is_lost_has_failed(tmp_path: Path, ray_place: MakePlace):
    kill_the_actor = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"
    cells = [program(tmp_path, "lost", kill_the_actor), program(tmp_path, "good", FINISH)]
    outcome, _ = run(cells, place=ray_place)
    (reason,) = outcome.failed.values()
    assert reason.startswith("FAILED, Ray could not run it to its end: ")


@pytest.mark.slow
def test_a_cluster_has_as_many_jobs_as_it_has_room_for(ray_place: MakePlace):
    with executor("ray", None, threads=1) as two, executor("ray", None, threads=2) as one:
        assert (two.jobs, one.jobs) == (2, 1)
    with executor("ray", 7, threads=1) as chosen:
        assert chosen.jobs == 7


def test_without_ray_the_remedy_is_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r"pip install 'regrow\[ray\]'"), executor("ray", None, threads=1):
        pass
