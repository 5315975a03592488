"""Scenarios of `train` on two ranks that torchrun has started; `test_recipe_runs` asks what became of them."""

import os
import signal
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

import regrow
from distributed.data_parallel import alone
from regrow.lab import Interrupted, Reporter, UsageError, make_settings, train
from regrow.lab.training.folder import RunFolder
from regrow.lab.training.ranks import launch
from regrow.lab.training.session import make_session

TIMES = {"seconds", "topology_seconds", "train_seconds", "validation_seconds", "data_wait_share"}


class Stop(Reporter):
    """Asks this process to stop in the middle of the second epoch."""

    def batch(self, position):
        if (position.epoch, position.batch) == (1, 17):
            os.kill(os.getpid(), signal.SIGINT)


def started(rank):
    """The environment that torchrun gives; the process group is there already."""
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": "2"}
    return patch.dict(os.environ, {"TORCHELASTIC_RUN_ID": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"} | ranks)


def run(rank, settings, out, **how):
    with started(rank):
        return train(settings, out=out, threads=1, devices=2, strategy="ddp", **how)


def rows(out):
    folder = RunFolder(out)
    lines = folder.rows("metrics.jsonl") + folder.rows("topology.jsonl")
    return [{key: value for key, value in row.items() if key not in TIMES} for row in lines]


def leaves(value, path=""):
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for name, part in items for key, leaf in leaves(part, f"{path}/{name}").items()}
    return {path: value}


def assert_same_state(one, other):
    first, second = (RunFolder(out).checkpoint() for out in (one, other))
    for part in ("model", "optimizer", "updater", "rng", "ranks"):
        left, right = leaves(first[part]), leaves(second[part])
        assert left.keys() == right.keys()
        for path, leaf in left.items():
            assert torch.equal(leaf, right[path]) if isinstance(leaf, torch.Tensor) else leaf == right[path], path


def a_run_is_that_of_one_process_and_goes_on_after_a_stop(rank, folder):
    settings = make_settings("digits-mlp", density=0.1, overrides=["epochs=3", "update_every=15", "window=all"])
    whole, stopped, single = folder / "whole", folder / "stopped", folder / "single"
    summary = run(rank, settings, whole)
    with pytest.raises(Interrupted, match="step 58 of 123"):  # on both, whichever of them was asked
        run(rank, settings, stopped, reporter=Stop())
    assert run(rank, settings, stopped, resume=True)["test_error"] == summary["test_error"]
    assert summary["processes"] == 2
    assert summary["allreduce_bytes"] < 0.12 * summary["allreduce_bytes_dense"]
    if rank == 0:
        assert_same_state(whole, stopped)
        assert rows(whole) == rows(stopped)
        with alone():
            by_itself = train(settings, out=single, threads=1)
        assert by_itself["test_error"] == pytest.approx(summary["test_error"], abs=1)
        first, second = (RunFolder(out).rows("metrics.jsonl")[0] for out in (whole, single))
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)
    dist.barrier()
    with pytest.raises(UsageError, match="exists already"):
        run(rank, settings, whole)
    with pytest.raises(UsageError, match="processes: 1 there, 2 now"):
        run(rank, settings, single, resume=True)


def rank_0_alone_writes(rank, folder):
    """All ranks name the same folder; the other one cannot even make its own."""
    settings = make_settings("digits-mlp", density=0.1, overrides=["epochs=1"])
    out = folder / "of-rank-0" if rank == 0 else Path("/proc/nowhere")
    run(rank, settings, out, topology_every=1)
    names = {"checkpoint.pt", "metrics.jsonl", "run.json", "summary.json", "topology.jsonl", "weights.jsonl"}
    names |= {"topology.npz", "topology-epoch1.npz"}
    assert rank == 1 or {file.name for file in out.iterdir()} == names


def the_rest_of_a_batch_is_shared_out(rank, folder):
    """Batches whose halves differ, and a last one of a single example: every example counts the same.

    A second updater, which is handed what Fabric has wrapped, changes nothing.
    """
    settings = make_settings("digits-mlp", density=0.1, overrides=["batch_size=31"])
    with started(rank):
        session = make_session(settings, Path("."), fabric=launch(settings.recipe, devices=2))
    regrow.Static(session.network, session.optimizer)
    with alone():
        single = make_session(settings, Path("."))
    for index in (torch.arange(31), torch.arange(31, 32)):
        with alone():
            expected = float(single.step(index))
        with started(rank):
            assert session.ranks.mean(session.step(index)) == pytest.approx(expected, rel=1e-5)
        for ours, theirs in zip(session.model.parameters(), single.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


SCENARIOS = [
    a_run_is_that_of_one_process_and_goes_on_after_a_stop,
    rank_0_alone_writes,
    the_rest_of_a_batch_is_shared_out,
]
