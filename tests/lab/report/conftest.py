"""What the tests of the report page share: two short runs, and ten of a large network that nobody trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("altair", reason="the report page needs: pip install 'regrow[report]'")
pytest.importorskip("jinja2", reason="the report page needs: pip install 'regrow[report]'")
pytest.importorskip("vl_convert", reason="the report page needs: pip install 'regrow[report]'")
pytest.importorskip("lightning_fabric", reason="the recipes need: pip install 'regrow[recipes]'")
pytest.importorskip("sklearn", reason="the recipes need: pip install 'regrow[recipes]'")

from regrow.lab import make_settings, train
from regrow.lab.report.inputs import Board, Inputs
from regrow.lab.report.leaderboard import Entry, leaderboard
from regrow.lab.report.runs import Run, name_runs

EPOCHS = 200


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dense and a sparse run of the digits, three epochs each."""
    folder = tmp_path_factory.mktemp("runs")
    for method, density in (("dense", None), ("sparse-momentum", 0.1)):
        settings = make_settings("digits-mlp", method=method, density=density, overrides=["epochs=3"])
        train(settings, out=folder / method, threads=1)
    return folder


def _invented(method: str, seed: int, layers: int) -> Run:
    """A run of 200 epochs and 199 updates; its figures are of no network."""
    shapes = {f"conv{i}.weight": [64 + 16 * i, 64, 3, 3] for i in range(layers)}
    settings = {
        "recipe": "invented",
        "method": method,
        "density": 0.05,
        "seed": seed,
        "epochs": EPOCHS,
        "storage": "auto",
    }
    metrics = [
        {
            "epoch": epoch,
            "step": 10 * epoch,
            "validation_error": 5 + 60 * math.exp(-epoch / (20 + seed)),
            "density": 0.05,
            "flop_density": 0.05 + epoch / 1000,
            "train_seconds": 31.25 * epoch,
        }
        for epoch in range(1, EPOCHS + 1)
    ]
    updates = [
        {
            "step": 10 * epoch,
            "prune_rate": 0.25 * (1 + math.cos(math.pi * epoch / EPOCHS)),
            "name": name,
            "pruned": 200 + index,
            "grown": 200 + index,
            "active": 1000 + 31 * index,
            "importance": 1 / layers,
        }
        for epoch in range(1, EPOCHS)
        for index, name in enumerate(shapes)
    ]
    histograms = [
        {"epoch": epoch, "name": name, "limit": 0.5, "counts": [20 - abs(20 - i) for i in range(41)]}
        for epoch in range(10, EPOCHS + 1, 10)
        for name in shapes
    ]
    summary = {
        "recipe": "invented",
        "method": method,
        "density": 0.05,
        "settings": settings,
        "active_weights": 500,
        "prunable_weights": 10_000,
        "test_error": 5.0 + seed / 7,
        "validation_error": 5.1,
        "epochs": EPOCHS,
        "train_flops": 0.06,
        "flop_density_end": 0.25,
        "train_seconds": 31.25 * EPOCHS,
        "seconds_per_step": 0.01,
        "peak_rss_mb": 900.0 + seed,
        "updates": EPOCHS - 1,
    }
    about = {
        "command": f"regrow train invented --method {method} --seed {seed}",
        "settings": settings,
        "layers": shapes,
    }
    return Run(Path(f"invented/{method}-{seed}"), about, summary, metrics, updates, histograms)


@pytest.fixture(scope="session")
def ten_runs() -> Callable[[int], Inputs]:
    """Five methods, two seeds each, with their leaderboard; of a network with so many layers."""

    def make(layers: int) -> Inputs:
        methods = ("rigl", "set", "sparse-momentum", "static", "mest")
        found = name_runs(_invented(method, seed, layers) for method in methods for seed in (0, 1))
        summaries: list[Any] = [run.summary for run in found]
        entries = [Entry(m, 0.05, {}, [s for s in summaries if s["method"] == m], 2) for m in methods]
        return Inputs(runs=found, boards=[Board("invented", leaderboard(entries), ["regrow compare invented"], 2)])

    return make


@pytest.fixture(scope="session")
def varied_board() -> Board:
    """A comparison that varied a number and a word."""
    errors = {(0.2, "none"): 4.0, (0.2, "momentum"): 3.0, (0.5, "none"): 5.0, (0.5, "momentum"): 3.5}
    run = {"active_weights": 5, "prunable_weights": 100, "train_flops": None, "flop_density_end": 0.05}
    run |= {"train_seconds": 1.0, "peak_rss_mb": 100.0, "updates": 3}
    entries = [
        Entry("sparse-momentum", 0.05, {"prune_rate": rate, "share": share}, [{**run, "test_error": error}], 1)
        for (rate, share), error in errors.items()
    ]
    return Board("digits-mlp", leaderboard(entries), ["regrow compare digits-mlp --vary prune_rate=0.2,0.5"], 1)
