"""Measuring whole steps and epochs: what the rows say, not how fast it is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lab.commands import run
from regrow.lab import Settings, models, train
from regrow.lab.bench import inference as bench_inference
from regrow.lab.bench import run as bench_run
from regrow.lab.bench import step as bench_step
from regrow.lab.bench.step import Network
from regrow.lab.recipes import catalog
from regrow.lab.training.topology_file import load_topology


@pytest.mark.parametrize("bf16", [False, True])
def test_bf16_is_measured_where_the_processor_computes_it(bf16: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_step, "computes_bf16", lambda: bf16)
    assert ("bf16" in bench_step.default_kinds()) == bf16


def test_a_step_is_measured_told_and_written(tiny: Callable[..., Settings], tmp_path: Path):
    tiny()  # brings its network
    words = ["--model", "wrn-tiny", "--density", "0.1", "--batch", "4,6", "--threads", "1", "--kinds", "nchw"]
    file = tmp_path / "steps.json"
    result = run("bench", "step", *words, "--seconds", "0", "--no-memory", "--json", str(file))
    assert result.exit_code == 0, result.output
    assert "2/2  wrn-tiny at density 0.1, batch 6: " in result.stdout
    rows = json.loads(file.read_text())
    assert [row["batch"] for row in rows] == [4, 6]
    for row in rows:
        assert row["density"] == pytest.approx(0.1, abs=0.01)
        assert row["flop_density"] == pytest.approx(0.1, abs=0.03)
        assert set(row["dense_ms"]) == {"nchw"}
        assert row["ratio_best_fp32"] == row["dense_ms"]["nchw"] / row["sparse_ms"]
        assert row["weight_bytes"]["sparse"] < row["weight_bytes"]["dense"]
        assert row["work_ms"]["sparse convolution backward"] > 0
        assert row["failed"] == {}


def test_inference_is_measured_told_and_written(tiny: Callable[..., Settings], tmp_path: Path):
    pytest.importorskip("onnxscript")
    tiny()
    words = ["--model", "wrn-tiny", "--density", "0.1", "--batches", "1,3", "--threads", "1", "--seconds", "0"]
    file = tmp_path / "inference.json"
    result = run("bench", "inference", *words, "--kinds", "nchw,channels_last,onnxruntime", "--json", str(file))
    assert result.exit_code == 0, result.output
    assert "2/2  wrn-tiny at density 0.1, batch 3: " in result.stdout
    rows = json.loads(file.read_text())
    assert [row["batch"] for row in rows] == [1, 3]
    for row in rows:
        assert row["density"] == pytest.approx(0.1, abs=0.01)
        assert set(row["dense_ms"]) == {"nchw", "channels_last", "onnxruntime"}
        assert row["ratio_best_dense"] == min(row["dense_ms"].values()) / row["sparse_ms"]
        assert max(row["max_rel_error"].values()) < 1e-5
        assert row["failed"] == {}


def test_outputs_that_are_compared_depend_on_the_input():
    with torch.no_grad():
        outputs = bench_inference.with_signal(Network("vgg16-d-half", 0.05))(models.example_input("vgg16-d-half", 8))
    assert outputs.std(0).max() > 0.01 * outputs.abs().max()


def test_a_contestant_that_is_missing_is_told_and_the_others_run(
    tiny: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
):
    tiny()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    row = bench_inference.run([Network("wrn-tiny", 0.1, 2)], 1, ["nchw", "onnxruntime"], seconds=0)[0]
    assert set(row["dense_ms"]) == {"nchw"}
    assert "pip install 'regrow[onnx]'" in row["failed"]["onnxruntime"]


def test_steps_and_epochs_start_from_a_trained_topology(tiny: Callable[..., Settings], tmp_path: Path):
    settings = tiny()
    train(settings, out=tmp_path / "run")
    topology = load_topology(tmp_path / "run" / "topology.npz")
    network = Network("wrn-tiny", topology.density, 4, topology.masks, topology.share)
    row = bench_step.run([network], threads=1, kinds=["nchw"], seconds=0, memory=False)[0]
    assert (row["density"], row["share"]) == (topology.density, "momentum")

    epoch = bench_run.run([(settings, topology)], tmp_path, threads=1, kinds=["nchw"], dense_steps=1)[0]
    assert epoch["density"] == topology.density
    assert (epoch["rule"], epoch["method"]) == ("momentum", "sparse-momentum")
    assert epoch["flop_density"] == pytest.approx(row["flop_density"], rel=0.2)  # of 8x8 images instead of 32x32
    assert epoch["dense_steps_measured"] == {"nchw": bench_run.PARTS}
    parts = epoch["sparse_steps_s"] + epoch["topology_update_s"] + epoch["sparse_validation_s"]
    assert epoch["sparse_epoch_s"] == pytest.approx(parts)
    assert epoch["ratio_best_fp32"] == epoch["dense_epoch_s"]["nchw"] / epoch["sparse_epoch_s"]


def test_layers_that_a_topology_leaves_dense_are_dense_where_it_is_measured(
    tiny: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train(tiny("dense=conv", "epochs=1"), out=tmp_path / "run")
    monkeypatch.setitem(catalog.RECIPES, "wrn-tiny-cifar10", lambda: tiny().recipe)
    topology, file = tmp_path / "run" / "topology.npz", tmp_path / "rows.json"
    words = ["--model", "wrn-tiny", "--topology", str(topology), "--threads", "1", "--kinds", "nchw"]
    for command, more in {"step": ["--seconds", "0", "--no-memory"], "run": ["--data-dir", str(tmp_path)]}.items():
        result = run("bench", command, *words, *more, "--json", str(file))
        assert result.exit_code == 0, result.output
        (row,) = json.loads(file.read_text())
        assert row["density"] == load_topology(topology).density
        assert "--density" not in row["command"]
    assert row["dense"] == ["conv.weight"]


def test_a_topology_of_another_network_is_refused_with_the_remedy(tiny: Callable[..., Settings], tmp_path: Path):
    train(tiny("epochs=1"), out=tmp_path / "run")
    words = ["--model", "vgg16-d-half", "--topology", str(tmp_path / "run" / "topology.npz"), "--kinds", "nchw"]
    for command in ("step", "run"):
        result = run("bench", command, *words)
        assert result.exit_code == 2
        assert "it has conv.weight, this one has conv1_1.weight and others; set --model" in " ".join(
            result.output.split()
        )


@pytest.mark.slow
def test_the_memory_of_a_contestant_is_that_of_its_own_process():
    """A larger batch takes more; what the measuring process holds does not count."""
    small, large = (bench_step.peak_memory(Network("vgg16-d-half", 0.05, batch), "sparse", 1) for batch in (2, 64))
    assert 0 < small < large


def test_ratios_are_against_the_best_dense_contestant_of_each_precision():
    dense = {"nchw": 40.0, "channels_last": 30.0, "bf16": 18.0, "bf16_channels_last": 20.0}
    assert bench_step.against(dense, 10.0) == {
        "best_fp32": "channels_last",
        "best_bf16": "bf16",
        "ratio_best_fp32": 3.0,
        "ratio_bf16": 1.8,
    }
    assert bench_step.against({"nchw": 5.0}, 10.0) == {
        "best_fp32": "nchw",
        "best_bf16": None,
        "ratio_best_fp32": 0.5,
        "ratio_bf16": None,
    }
