"""Logs copy what a run writes anyway, and change nothing of it."""

from __future__ import annotations

import csv
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.training.test_resume import SignalAt, assert_same_run
from regrow.lab import Interrupted, RunError, Settings, UsageError, train
from regrow.lab.training.folder import RunFolder

LAYERS = ("fc1.weight", "fc2.weight", "fc3.weight")


def lines(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_csv_log_has_the_runs_numbers_and_the_run_is_the_same(short: Callable[..., Settings], tmp_path: Path):
    train(short(), out=tmp_path / "plain", threads=1)
    train(short(), out=tmp_path / "logged", threads=1, logger="csv")
    logs = (tmp_path / "logged" / "logs").rename(tmp_path / "logs")
    assert_same_run(tmp_path / "plain", tmp_path / "logged")
    folder = RunFolder(tmp_path / "logged")
    rows = lines(logs / "csv" / "metrics.csv")
    epochs = [row for row in rows if row["validation_error"]]
    assert [(int(row["step"]), float(row["loss"])) for row in epochs] == [
        (row["step"], row["loss"]) for row in folder.rows("metrics.jsonl")
    ]
    assert all(0 < float(row[f"density/{name}"]) <= 1 for row in epochs for name in LAYERS)
    for row in folder.rows("topology.jsonl"):
        (logged,) = (r for r in rows if int(r["step"]) == row["step"] and r[f"pruned/{row['name']}"])
        for what in ("importance", "pruned", "grown"):
            assert float(logged[f"{what}/{row['name']}"]) == row[what]


def test_a_run_that_goes_on_begins_a_new_log(short: Callable[..., Settings], tmp_path: Path):
    with pytest.raises(Interrupted):
        train(short(), out=tmp_path, threads=1, logger="csv", reporter=SignalAt(2))
    step = (RunFolder(tmp_path).checkpoint() or {})["position"]["step"]
    train(short(), out=tmp_path, resume=True, logger="csv")
    first, second = (
        [int(row["step"]) for row in lines(tmp_path / "logs" / name / "metrics.csv") if row["loss"]]
        for name in ("csv", f"csv-from-step-{step}")
    )
    assert first + second == [row["step"] for row in RunFolder(tmp_path).rows("metrics.jsonl")]


def test_tensorboard_has_scalars_and_histograms(short: Callable[..., Settings], tmp_path: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(short("epochs=2"), out=tmp_path, threads=1, logger="tensorboard")
    events = accumulator.EventAccumulator(str(tmp_path / "logs" / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {f"active weights/{name}" for name in LAYERS} <= set(tags["histograms"])
    wanted = {f"{what}/{name}" for what in ("density", "importance", "pruned", "grown") for name in LAYERS}
    assert wanted | {"loss", "validation_error"} <= set(tags["scalars"])
    rows = RunFolder(tmp_path).rows("metrics.jsonl")
    assert [event.step for event in events.Scalars("loss")] == [row["step"] for row in rows]
    active = {row["name"]: row["active"] for row in RunFolder(tmp_path).rows("topology.jsonl")}
    last = events.Histograms("active weights/fc1.weight")[-1].histogram_value
    assert last.num == active["fc1.weight"]


class _FakeRun:
    """What is used of a run of Weights & Biases."""

    def __init__(self, **how: Any):
        self.name, self.id = how["name"], "x1"
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = False

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self.logged.append((step, metrics))

    def finish(self) -> None:
        self.finished = True


def test_weights_and_biases_where_it_is_installed(
    short: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runs: list[_FakeRun] = []

    def init(**how: Any) -> _FakeRun:
        runs.append(_FakeRun(**how))
        return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Histogram=lambda values: values))
    train(short("epochs=2"), out=tmp_path / "run", threads=1, logger="wandb")
    (run,) = runs
    assert (run.name, run.finished) == ("run-wandb", True)
    steps = [step for step, _ in run.logged]
    assert steps == sorted(steps)  # it drops what goes back
    names = set().union(*(metrics for _, metrics in run.logged))
    assert {"loss", "density/fc1.weight", "grown/fc1.weight", "active weights/fc1.weight"} <= names


def test_loggers_that_are_not_there(short: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match="the loggers are tensorboard, csv, wandb"):
        train(short(), out=tmp_path / "run", logger="paper")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RunError, match="pip install wandb"):
        train(short(), out=tmp_path / "run", logger="csv,wandb")
    assert not (tmp_path / "run").exists()
