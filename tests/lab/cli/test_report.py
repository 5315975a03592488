"""`regrow report`, live and not, and `regrow features`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lab.commands import run
from regrow.lab import RunError, Settings, train
from regrow.lab.bench.features import activation_shares, class_activations
from regrow.lab.cli import live
from regrow.lab.cli.reporting import make_report
from regrow.lab.data.split import Split

pytest.importorskip("altair", reason="the report page needs: pip install 'regrow[report]'")


@pytest.fixture
def trained(short: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders "sparse" and "dense", in the folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    train(short("epochs=1"), out=tmp_path / "sparse", threads=1)
    train(short("epochs=1", method="dense"), out=tmp_path / "dense", threads=1)
    return tmp_path


def test_features_are_measured_and_shown(trained: Path):
    result = run("features", "sparse", "dense", "--images", "100")
    assert result.exit_code == 0, result.output
    assert "sparse-momentum 10 %: mean specialisation" in result.output
    content = json.loads((trained / "features.json").read_text())
    assert content["command"] == "regrow features sparse dense --split test --images 100"
    for network in content["networks"]:
        assert [(layer["name"], layer["channels"]) for layer in network["layers"]] == [("relu1", 300), ("relu2", 100)]
        for layer in network["layers"]:
            assert len(layer["shares"]) + layer["silent"] == layer["channels"]
            assert all(abs(sum(channel) - 1) < 0.001 for channel in layer["shares"])
    result = run("report", "sparse", "features.json", "--out", "page.html")
    assert result.exit_code == 0, result.output
    page = (trained / "page.html").read_text()
    assert "Class specialisation by layer" in page
    assert "regrow report sparse features.json --out page.html" in page
    assert run("features", "sparse", "sparse/checkpoint.pt", "--images", "10", "--out", "two.json").exit_code == 0
    labels = [network["label"] for network in json.loads((trained / "two.json").read_text())["networks"]]
    assert labels == ["sparse-momentum 10 %, sparse", "sparse-momentum 10 %, sparse/checkpoint.pt"]
    assert "no split 'tset'" in run("features", "sparse", "--split", "tset").stderr


def test_shares_are_of_the_mean_over_the_images_of_a_class():
    """Class 1 has two images, class 0 one; a channel of 2x1 pixels; the second channel is silent."""
    x = torch.tensor([[[3.0, 1.0], [-1.0, -1.0]], [[4.0, 0.0], [-2.0, -1.0]], [[6.0, 14.0], [0.0, -3.0]]])[
        :, :, :, None
    ]
    activations = class_activations(nn.Sequential(nn.ReLU()), Split(x, torch.tensor([0, 1, 1])))
    assert activations["0"].tolist() == [[2.0, 0.0], [6.0, 0.0]]
    assert activation_shares(activations["0"]).tolist() == [[0.25, 0.75]]


def test_a_module_that_is_called_twice_is_two_layers():
    relu = nn.ReLU()
    found = class_activations(nn.Sequential(relu, nn.Linear(2, 3), relu), Split(torch.ones(2, 2), torch.tensor([0, 1])))
    assert {name: tuple(means.shape) for name, means in found.items()} == {"0": (2, 2), "0 #2": (2, 3)}


def test_a_report_of_nothing_is_one_line(trained: Path):
    result = run("report", "nothing")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "there is no nothing; name run folders" in result.stderr
    assert "there is no nothing to follow; name a run folder" in run("report", "nothing", "--live").stderr


def test_without_the_libraries_the_remedy_is_told(trained: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "regrow.lab.report.page", None)
    with pytest.raises(RunError, match=r"pip install 'regrow\[report\]'"):
        make_report([trained / "sparse"], trained / "page.html")


def test_a_live_page_follows_a_run_to_its_end(trained: Path, monkeypatch: pytest.MonkeyPatch):
    """From an empty folder over a run under way to a finished one; the waits are when something happens."""
    folder, page = trained / "live", trained / "live.html"
    folder.mkdir()
    pages: list[str | None] = []

    def wait(seconds: float, stop: Any) -> None:
        pages.append(page.read_text() if page.exists() else None)
        if len(pages) == 1:
            shutil.copytree(
                trained / "sparse", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("summary.json")
            )
        elif len(pages) == 3:  # at the second wait nothing happens
            shutil.copy(trained / "sparse" / "summary.json", folder)

    monkeypatch.setattr(live, "_wait", wait)
    live.live_report([folder], page, 10, show=False)
    assert pages[0] is None
    assert pages[1] == pages[2]
    assert 'data-refresh="10"' in (pages[1] or "")
    assert "data-refresh" not in page.read_text().partition("<main>")[0]
    assert len(pages) == 3


class Process:
    """Stands for the process of a live report."""

    def __init__(self, words: list[str], **how: Any):
        self.words, self.told, self.waited = words, False, False
        Process.last = self

    def terminate(self) -> None:
        self.told = True

    def wait(self) -> int:
        self.waited = True
        return 0


@pytest.mark.parametrize("failing", [False, True])
def test_the_page_beside_a_run_ends_with_it(failing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live.subprocess, "Popen", Process)
    outcome = pytest.raises(RunError, match="the training fails") if failing else nullcontext()
    with outcome, live.report_beside(tmp_path / "run", tmp_path / "run.html"):
        assert (tmp_path / "run").is_dir()
        if failing:
            raise RunError("the training fails")
    process = Process.last
    assert process.words[3:] == [
        "report",
        str(tmp_path / "run"),
        "--out",
        str(tmp_path / "run.html"),
        "--live",
        "--open",
    ]
    assert (process.told, process.waited) == (failing, True)
