"""What a run leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import regrow
from regrow.lab import RunError, Settings, UsageError, make_settings, train
from regrow.lab.training.folder import RunFolder
from regrow.lab.training.session import make_session
from regrow.lab.training.topology_file import load_topology

SUMMARY_KEYS = [
    "recipe",
    "model",
    "method",
    "storage",
    "density",
    "active_weights",
    "prunable_weights",
    "parameters",
    "flop_density_start",
    "flop_density_end",
    "flop_density_mean",
    "train_flops",
    "seed",
    "epochs",
    "steps",
    "updates",
    "test_error",
    "test_loss",
    "validation_error",
    "validation_loss",
    "train_seconds",
    "topology_seconds",
    "validation_seconds",
    "data_wait_share",
    "seconds_per_step",
    "peak_rss_mb",
    "threads",
    "processes",
    "allreduce_bytes",
    "allreduce_bytes_dense",
    "deterministic",
    "torch",
    "regrow",
    "settings",
]


def test_a_run_leaves_its_folder(short: Callable[..., Settings], tmp_path: Path):
    summary = train(short(), out=tmp_path / "run", threads=1)
    folder = RunFolder(tmp_path / "run")
    assert list(summary) == SUMMARY_KEYS
    assert sorted(file.name for file in folder.path.iterdir()) == [
        "checkpoint.pt",
        "metrics.jsonl",
        "run.json",
        "summary.json",
        "topology.jsonl",
        "topology.npz",
        "weights.jsonl",
    ]
    assert json.loads((folder.path / "summary.json").read_text()) == summary
    assert [row["epoch"] for row in folder.rows("metrics.jsonl")] == [1, 2, 3, 4]
    assert [row["step"] for row in folder.rows("topology.jsonl")] == [41] * 3 + [82] * 3 + [123] * 3
    assert (summary["steps"], summary["updates"], summary["threads"]) == (164, 3, 1)
    assert (summary["active_weights"], summary["prunable_weights"], summary["parameters"]) == (5020, 50200, 50610)
    assert summary["flop_density_start"] == pytest.approx(0.1)
    assert summary["regrow"] == regrow.__version__


def test_a_run_says_what_it_is_and_how_its_weights_are_spread(short: Callable[..., Settings], tmp_path: Path):
    for method in ("sparse-momentum", "dense"):
        summary = train(short(method=method), out=tmp_path / method, threads=1)
        about = json.loads((tmp_path / method / "run.json").read_text())
        assert about["settings"] == summary["settings"]
        assert about["layers"] == {"fc1.weight": [300, 64], "fc2.weight": [100, 300], "fc3.weight": [10, 100]}
        rows = RunFolder(tmp_path / method).rows("weights.jsonl")
        assert [(row["epoch"], row["name"]) for row in rows] == [(e, n) for e in range(1, 5) for n in about["layers"]]
        assert sum(sum(row["counts"]) for row in rows[-3:]) == summary["active_weights"]
    assert about["command"] == "regrow train digits-mlp --method dense --set epochs=4"


def test_a_run_of_an_earlier_version_without_histograms_goes_on(short: Callable[..., Settings], tmp_path: Path):
    train(short(), out=tmp_path / "run", max_seconds=0)
    folder = RunFolder(tmp_path / "run")
    checkpoint = folder.checkpoint() or {}
    del checkpoint["lengths"]["weights.jsonl"]
    checkpoint["position"]["ended"] = False
    torch.save({**checkpoint, "format": 1}, folder.path / "checkpoint.pt")  # without a checksum
    for name in ("summary.json", "weights.jsonl", "run.json"):
        (folder.path / name).unlink()
    train(short(), out=folder.path, resume=True)
    assert [row["epoch"] for row in folder.rows("weights.jsonl")][::3] == [2, 3, 4]


def test_digits_are_learned_with_a_tenth_of_the_weights(tmp_path: Path):
    assert train(make_settings("digits-mlp", density=0.1), out=tmp_path / "run")["test_error"] < 6


def test_the_checkpoint_is_tensors_and_plain_values(short: Callable[..., Settings], tmp_path: Path):
    train(short(), out=tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert sum(t.numel() for name, t in state["model"].items() if name.endswith("indices")) == 5020


def test_dense_is_dense(short: Callable[..., Settings], tmp_path: Path):
    summary = train(short(method="dense"), out=tmp_path / "run")
    assert (summary["density"], summary["storage"], summary["updates"]) == (1.0, "dense", 0)
    assert summary["active_weights"] == summary["prunable_weights"] == 50200
    assert [summary[f"flop_density_{when}"] for when in ("start", "end", "mean")] == [1.0, 1.0, 1.0]
    assert (tmp_path / "run" / "topology.jsonl").read_text() == ""


def test_static_never_changes_its_topology(short: Callable[..., Settings], tmp_path: Path):
    settings = short(method="static")
    fresh = {n: w.indices for n, w in regrow.sparse_weights(make_session(settings, tmp_path).model).items()}
    summary = train(settings, out=tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["model"]
    assert summary["updates"] == 0
    for name, indices in fresh.items():
        assert torch.equal(state[name.replace("weight", "indices")].long(), indices)


def test_validation_comes_before_the_update(short: Callable[..., Settings], tmp_path: Path):
    """The first epoch's line is the same whether an update follows it or not."""
    train(short(), out=tmp_path / "moving")
    train(short(method="static"), out=tmp_path / "static")
    moving, static = (RunFolder(tmp_path / name).rows("metrics.jsonl") for name in ("moving", "static"))
    assert moving[0]["validation_error"] == static[0]["validation_error"]
    assert moving[0]["loss"] == static[0]["loss"]
    assert moving[1]["loss"] != static[1]["loss"]
    assert moving[-1]["prune_rate"] is None  # no update after the last epoch


def test_seeds_differ_and_repeat(short: Callable[..., Settings], tmp_path: Path):
    losses = []
    for number, seed in enumerate((0, 0, 1)):
        train(short("epochs=1", seed=seed), out=tmp_path / str(number), threads=1)
        losses.append(RunFolder(tmp_path / str(number)).rows("metrics.jsonl")[0]["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_a_folder_in_use_is_refused_with_the_remedy(short: Callable[..., Settings], tmp_path: Path):
    (tmp_path / "something").touch()
    with pytest.raises(UsageError, match=r"--resume.*--out"):
        train(short(), out=tmp_path)


def test_a_loss_that_is_not_finite_ends_the_run(short: Callable[..., Settings], tmp_path: Path):
    with pytest.raises(RunError, match=r"loss is not finite at step 2 \(epoch 1\).*--set lr=.*that of step 0"):
        train(short("lr=1e20"), out=tmp_path / "run")


def test_threads_are_put_back(short: Callable[..., Settings], tmp_path: Path):
    before = torch.get_num_threads()
    assert train(short("epochs=1", "batch_size=700"), out=tmp_path / "run", threads=before + 1)["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_updates_come_every_so_many_steps_and_not_after_the_last(tiny: Callable[..., Settings], tmp_path: Path):
    summary = train(tiny("update_every=8"), out=tmp_path / "run")  # 12 steps an epoch
    folder = RunFolder(tmp_path / "run")
    steps = sorted({row["step"] for row in folder.rows("topology.jsonl")})
    assert steps == [8, 16, 24, 32]
    assert summary["updates"] == 4
    rates = [row["prune_rate"] for row in folder.rows("metrics.jsonl")]
    assert rates[0] > rates[1] > rates[2] > 0  # of each epoch's last update


def test_metrics_tell_time_since_the_start(tiny: Callable[..., Settings], tmp_path: Path):
    summary = train(tiny(), out=tmp_path / "run")
    rows = RunFolder(tmp_path / "run").rows("metrics.jsonl")
    spent = [row["seconds"] + row["topology_seconds"] for row in rows]
    assert [row["train_seconds"] for row in rows] == pytest.approx([sum(spent[:n]) for n in (1, 2, 3)])
    assert rows[-1]["train_seconds"] == pytest.approx(summary["train_seconds"])
    assert 0 < rows[0]["validation_seconds"] < rows[1]["validation_seconds"] < summary["validation_seconds"] * 1.001


def test_a_run_ends_when_its_time_is_over(tiny: Callable[..., Settings], tmp_path: Path):
    """With the schedule of the whole run, and without an update before the test."""
    summary = train(tiny(), out=tmp_path / "run", max_seconds=1e-3)
    whole = train(tiny(), out=tmp_path / "whole", max_seconds=1e6)
    (row,), rows = (RunFolder(tmp_path / name).rows("metrics.jsonl") for name in ("run", "whole"))
    assert (summary["epochs"], summary["updates"], whole["epochs"], whole["updates"]) == (1, 0, 3, 2)
    assert (row["loss"], row["lr"]) == (rows[0]["loss"], rows[0]["lr"])
    checkpoint = RunFolder(tmp_path / "run").checkpoint() or {}
    (tmp_path / "run" / "summary.json").unlink()  # as if it was killed before the summary
    assert train(tiny(), out=tmp_path / "run", resume=True)["test_error"] == summary["test_error"]
    assert checkpoint["position"]["step"] == 12


def test_topology_files_hold_the_active_sets(tiny: Callable[..., Settings], tmp_path: Path):
    summary = train(tiny("share=none"), out=tmp_path / "run", topology_every=2)
    checkpoint = RunFolder(tmp_path / "run").checkpoint() or {}
    assert sorted(file.name for file in (tmp_path / "run").glob("*.npz")) == ["topology-epoch2.npz", "topology.npz"]
    topology = load_topology(tmp_path / "run" / "topology.npz")
    of_checkpoint = {name for name in checkpoint["model"] if name.endswith("indices")}
    assert of_checkpoint
    for name in of_checkpoint:
        mask = topology.masks[name.replace("indices", "weight")]
        assert torch.equal(mask.flatten().nonzero().squeeze(1), checkpoint["model"][name].long().sort().values)
    assert sum(topology.about["active"].values()) == summary["active_weights"]
    about = {key: topology.about[key] for key in ("recipe", "model", "method", "density", "share", "seed", "epochs")}
    assert list(about.values()) == ["tiny-images", "wrn-tiny", "sparse-momentum", 0.2, "none", 0, 3]
    assert topology.about["flop_density"] == summary["flop_density_end"]
    assert load_topology(tmp_path / "run" / "topology-epoch2.npz").about["step"] == 24
    whole = (tmp_path / "run" / "topology.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"cut\.npz is not a topology file"):
        load_topology(tmp_path / "cut.npz")


def test_tiny_images_are_learned(tiny: Callable[..., Settings], tmp_path: Path):
    assert train(tiny(), out=tmp_path / "run")["test_error"] < 40  # of three classes


def test_lenet300_on_mnist_learns(mnist_root: Path, tmp_path: Path):
    settings = make_settings("lenet300-mnist", density=0.1, overrides=["epochs=2", "batch_size=500"])
    summary = train(settings, out=tmp_path / "run", data_dir=mnist_root, threads=1)
    assert summary["active_weights"] == 26620
    assert summary["test_error"] < 15


def test_lenet5_stays_finite_at_the_published_learning_rate(mnist_root: Path):
    """Without ReLU after the convolutions, as in Caffe, it diverges within 20 steps."""
    settings = make_settings("lenet5-mnist", method="dense")
    session = make_session(settings, mnist_root)
    losses = [session.step(torch.arange(100 * step, 100 * step + 100)).item() for step in range(40)]
    assert losses[-1] < 2
    assert session.prunable == 430_500


def test_dense_and_sparse_networks_train_in_mixed_precision(tiny: Callable[..., Settings], tmp_path: Path):
    """Dense layers compute in bfloat16, so the errors differ from those of float32; compressed ones keep float32."""
    exact = train(tiny(method="dense", density=None), out=tmp_path / "exact")
    mixed = train(tiny("precision=bf16-mixed", method="dense", density=None), out=tmp_path / "mixed")
    rows = [RunFolder(tmp_path / name).rows("metrics.jsonl") for name in ("exact", "mixed")]
    assert rows[0][-1]["loss"] != rows[1][-1]["loss"]
    assert rows[0][-1]["loss"] == pytest.approx(rows[1][-1]["loss"], rel=0.2)
    assert mixed["settings"]["precision"] == "bf16-mixed"
    assert exact["settings"]["precision"] == "32-true"
    sparse = train(tiny("precision=bf16-mixed", storage="compressed"), out=tmp_path / "sparse")
    assert sparse["updates"] == 2
    with pytest.raises(UsageError, match="precision=fp16 must be 32-true or bf16-mixed"):
        tiny("precision=fp16")
