"""What a report is made from: everything that regrow writes is told apart, everything else is refused with a remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from regrow.lab.report.inputs import ReportError, read_inputs
from regrow.lab.report.runs import differences, read_run

RESULTS = Path(__file__).resolve().parents[3] / "results"
SHOWN = {
    "layers.json": "layers",
    "layer_thresholds.json": "layers",
    "steps.json": "steps",
    "steps-small.json": "steps",
    "scaling.json": "steps",
    "run.json": "epochs",
    "layer_memory.json": "storages",
    "lenet300-mnist.json": "boards",
    "storages-lenet300-mnist.json": "boards",
}


def test_a_folder_of_runs_is_all_its_runs(runs: Path):
    inputs = read_inputs([runs])
    assert [run.label for run in inputs.runs] == ["dense", "sparse-momentum 10 %"]
    assert [row["method"] for row in inputs.boards[0].rows] == ["dense", "sparse-momentum"]
    assert inputs.boards[0].commands[1] == "regrow train digits-mlp --density 0.1 --set epochs=3"
    assert inputs.finished


def test_a_run_named_twice_is_shown_once(runs: Path):
    assert len(read_inputs([runs, runs / "dense", runs / "dense"]).runs) == 2


def test_a_run_under_way_is_read_up_to_its_last_whole_line(runs: Path, tmp_path: Path):
    shutil.copytree(runs / "sparse-momentum", tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "ste')
    inputs = read_inputs([tmp_path / "run"])
    assert [row["epoch"] for row in inputs.runs[0].metrics] == [1, 2, 3]
    assert not inputs.finished
    assert inputs.boards == []


def test_a_run_of_an_earlier_version_has_less_to_say(runs: Path, tmp_path: Path):
    shutil.copytree(runs / "sparse-momentum", tmp_path / "old")
    for name in ("run.json", "weights.jsonl"):
        (tmp_path / "old" / name).unlink()
    run = read_inputs([tmp_path / "old"]).runs[0]
    assert (run.label, run.command, run.layers, run.histograms) == ("sparse-momentum 10 %", None, {}, [])
    (tmp_path / "old" / "summary.json").unlink()
    assert read_inputs([tmp_path / "old"]).runs[0].label == "old"


def test_a_comparison_brings_its_leaderboard_and_says_what_is_missing(runs: Path, tmp_path: Path):
    shutil.copytree(runs, tmp_path / "table" / "runs")
    note = {"recipe": "digits-mlp", "seeds": [0, 1], "command": "regrow compare digits-mlp", "runs": 4}
    rows = read_inputs([runs]).boards[0].rows
    (tmp_path / "table" / "grid.json").write_text(json.dumps(note))
    assert len(read_inputs([tmp_path / "table"]).runs) == 2  # before its first leaderboard is written
    (tmp_path / "table" / "leaderboard.json").write_text(json.dumps(rows))
    inputs = read_inputs([tmp_path / "table"])
    (board,) = inputs.boards
    assert (board.recipe, board.rows, board.commands, board.seeds) == ("digits-mlp", rows, [note["command"]], 2)
    assert (len(inputs.runs), inputs.missing, inputs.finished) == (2, 2, False)


@pytest.mark.parametrize("name", SHOWN)
def test_files_of_benches_are_told_apart(name: str):
    inputs = read_inputs([RESULTS / name])
    found = [kind for kind in ("boards", "layers", "steps", "epochs", "storages", "features") if getattr(inputs, kind)]
    assert found == [SHOWN[name]]


@pytest.mark.parametrize("name", ["blocked_layers.json", "blocked_numerics.json", "window_overlap.json"])
def test_other_result_files_are_refused_with_the_remedy(name: str):
    with pytest.raises(ReportError, match=rf"{name} .*; name "):
        read_inputs([RESULTS / name])


@pytest.mark.parametrize("content", [None, "", "[]", "7", '{"rows": 3}', "folder"])
def test_what_is_nothing_is_refused(content: str | None, tmp_path: Path):
    path = tmp_path / "thing"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    with pytest.raises(ReportError, match=rf"{path}.*name "):
        read_inputs([path])


def test_runs_are_told_apart_by_what_they_differ_in_and_by_no_setting_that_one_of_them_lacks():
    one = {"recipe": "a", "method": "set", "density": 0.1, "seed": 0, "lr": 0.1}
    others = [{**one, "seed": 1, "lr": 0.2}, {**one, "recipe": "b", "lr": 0.3}, {**one, "new": 5}]
    assert differences([one, *others]) == [{"lr": 0.1}, {"lr": 0.2}, {}, {"lr": 0.1}]


def test_the_latest_topology_is_the_one_of_the_end_else_of_the_last_epoch(tmp_path: Path):
    for name in ("metrics.jsonl", "topology-epoch2.npz", "topology-epoch10.npz"):
        (tmp_path / name).touch()
    assert read_run(tmp_path).topology_file == tmp_path / "topology-epoch10.npz"
    (tmp_path / "topology.npz").touch()
    assert read_run(tmp_path).topology_file == tmp_path / "topology.npz"
