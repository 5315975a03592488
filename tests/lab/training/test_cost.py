"""FLOPs of training: each step counted with the topology and the window that it had."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import regrow
from regrow.flops import flops_per_weight, step_flops
from regrow.lab import Settings, train
from regrow.lab.training.folder import RunFolder
from regrow.lab.training.session import make_session

FLOPS = {"0.weight": 10.0, "1.weight": 2.0}


def two_layers(storage: str) -> nn.Module:
    """8 of 40 and 2 of 10 weights active; dense: 3 * (10 * 40 + 2 * 10) = 1260 FLOPs a step."""
    model = nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 2))
    return regrow.sparsify(model, 0.2, storage=storage, seed=0)


class Listener:
    def hear(self, gradient: torch.Tensor) -> None:
        """Does nothing."""


def collect(model: nn.Module, name: str) -> None:
    regrow.sparse_weights(model)[name].tap(Listener().hear).collect(True)


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_a_step_by_hand(storage: str):
    model = two_layers(storage)
    assert step_flops(model, FLOPS) == pytest.approx(3 * (10 * 8 + 2 * 2) / 1260)
    collect(model, "1.weight")
    assert step_flops(model, FLOPS) == pytest.approx((10 * 3 * 8 + 2 * (2 * 2 + 10)) / 1260)
    collect(model, "0.weight")
    assert step_flops(model, FLOPS) == pytest.approx((10 * (2 * 8 + 40) + 2 * (2 * 2 + 10)) / 1260)


def test_part_of_a_batch_costs_a_part_in_compressed_storage_alone():
    for storage, gradients in (("compressed", 8 + 0.25 * 32), ("masked", 40)):
        model = two_layers(storage)
        collect(model, "0.weight")
        assert step_flops(model, FLOPS, 0.25) == pytest.approx((10 * (2 * 8 + gradients) + 2 * 3 * 2) / 1260)


def test_top_kast_needs_the_gradients_of_its_wider_set():
    model = regrow.sparsify(nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 2)), 1.0, storage="masked")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"total_steps": 9, "update_every": 3, "density": 0.2, "backward_density": 0.5}
    updater = regrow.TopKAST(model, optimizer, **settings)
    assert step_flops(model, FLOPS) == pytest.approx((10 * (2 * 8 + 20) + 2 * (2 * 2 + 5)) / 1260)
    updater.remove()
    assert step_flops(model, FLOPS) == pytest.approx(3 * (10 * 8 + 2 * 2) / 1260)
    assert step_flops(copy.deepcopy(model), FLOPS) == step_flops(model, FLOPS)


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_who_listens_no_more_collects_no_more(storage: str):
    model = two_layers(storage)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = regrow.SparseMomentum(model, optimizer, total_steps=9, update_every=3, window=3)
    assert all(weight.collecting for weight in regrow.sparse_weights(model).values())
    updater.remove()
    assert not any(weight.collecting for weight in regrow.sparse_weights(model).values())


def test_whole_runs_by_hand(short: Callable[..., Settings], tmp_path: Path):
    """4 epochs of 41 steps and 3 updates; all layers are Linear, so the FLOP density stays 0.1."""

    def flops(name: str, settings: Settings) -> float:
        return train(settings, out=tmp_path / name, threads=1)["train_flops"]

    plain, dense_gradient = 0.1, (2 * 0.1 + 1) / 3
    assert flops("dense", short(method="dense")) == 1
    assert flops("static", short(method="static")) == pytest.approx(plain)
    window = (3 * 20 * dense_gradient + (164 - 60) * plain) / 164
    assert flops("compressed", short(storage="compressed")) == pytest.approx(window)
    until_the_last_update = (3 * 41 * dense_gradient + 41 * plain) / 164
    assert flops("masked", short(storage="masked")) == pytest.approx(until_the_last_update)


def test_the_actual_history_counts(tiny: Callable[..., Settings], tmp_path: Path):
    """Convolutions: the FLOP density changes at each update. Counted again from the lines of topology.jsonl."""
    settings = tiny("window=4", storage="masked")
    summary = train(settings, out=tmp_path / "run", threads=1)
    session = make_session(settings, tmp_path)
    weights = regrow.sparse_weights(session.model)
    cost = flops_per_weight(session.model, session.data.train.batch(torch.arange(2))[0])
    dense = sum(3 * cost[name] * weight.numel for name, weight in weights.items())
    active = {name: weight.active for name, weight in weights.items()}
    changes = {(row["step"], row["name"]): row["active"] for row in RunFolder(tmp_path / "run").rows("topology.jsonl")}
    updates = sorted({step for step, _ in changes})
    spent, densities = 0.0, set()
    for step in range(summary["steps"]):
        active |= {name: changes[step, name] for name in weights if (step, name) in changes}
        in_window = any(update - 4 <= step < update for update in updates)
        gradients = {name: weight.numel if in_window else active[name] for name, weight in weights.items()}
        spent += sum(cost[name] * (2 * active[name] + gradients[name]) for name in weights)
        densities.add(sum(cost[name] * active[name] for name in weights))
    assert len(densities) == len(updates) + 1 > 1
    assert summary["train_flops"] == pytest.approx(spent / dense / summary["steps"])


def test_a_run_that_began_before_flops_were_counted_has_none(short: Callable[..., Settings], tmp_path: Path):
    settings = short("epochs=1")
    train(settings, out=tmp_path, threads=1, resume=True)
    checkpoint = RunFolder(tmp_path).checkpoint() or {}
    del checkpoint["position"]["step_flops_sum"], checkpoint["lengths"]
    RunFolder(tmp_path).save(checkpoint)
    (tmp_path / "summary.json").unlink()
    assert train(settings, out=tmp_path, threads=1, resume=True)["train_flops"] is None
