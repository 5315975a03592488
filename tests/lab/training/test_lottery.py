"""Lottery tickets: rounds that nest, weights that go back, and a run that goes on where it was stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import regrow
from regrow.lab import Settings, UsageError, train
from regrow.lab.cli.summary import print_network
from regrow.lab.training.lottery import round_densities
from regrow.lab.training.session import make_session
from regrow.lab.training.ticket import rewind
from regrow.lab.training.topology_file import load_topology

DENSITY, EPOCHS = 0.7, 3
ROUNDS = 3
POSITIONS = 50_200


def values_of(checkpoint: Path, settings: Settings, masks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights that a round ended with, dense."""
    model = make_session(settings, Path("."), masks).model
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    dense = {}
    for name, weight in regrow.sparse_weights(model).items():
        dense[name] = torch.zeros(weight.numel).index_put_((weight.indices,), weight.values)
    return dense


@pytest.mark.parametrize("rewound", [0, 1])
def test_rounds(rewound: int, short: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = short(f"epochs={EPOCHS}", f"rewind_epochs={rewound}", method="lottery", density=DENSITY)
    summary = train(settings, out=tmp_path / "run", threads=1)
    rounds = [tmp_path / "run" / f"round-{number}" for number in range(ROUNDS)]
    assert not (tmp_path / "run" / f"round-{ROUNDS}").exists()
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in rounds]
    densities = round_densities(DENSITY)
    assert [s["active_weights"] for s in summaries] == [round(d * POSITIONS) for d in densities]
    masks = [load_topology(folder / "topology.npz").masks for folder in rounds]
    for before, after in pairwise(masks):
        assert all((before[name] | ~after[name]).all() for name in after)
    flat = torch.cat(list(values_of(rounds[0] / "checkpoint.pt", settings, masks[0]).values()))
    kept = torch.cat([mask.flatten() for mask in masks[1].values()])
    assert flat[kept].abs().min() >= flat[~kept].abs().max()

    steps = summaries[0]["steps"]
    assert summary["steps"] == ROUNDS * steps - (ROUNDS - 1) * rewound * steps // EPOCHS
    assert summary["epochs"] == ROUNDS * EPOCHS - (ROUNDS - 1) * rewound
    share = 1 - rewound / EPOCHS  # later rounds train the epochs after the rewinding point
    for cost in ("flop_density_mean", "train_flops"):
        assert summary[cost] == pytest.approx(1 + share * sum(densities[1:]), rel=1e-4)
    assert summary["test_error"] == summaries[-1]["test_error"] < 60
    print_network(tmp_path / "run")
    assert f"{round(DENSITY * POSITIONS):,} / {POSITIONS:,}" in capsys.readouterr().out

    shutil.rmtree(rounds[-1])
    (tmp_path / "run" / "summary.json").unlink()
    again = train(settings, out=tmp_path / "run", threads=1, resume=True)
    same = ("test_error", "validation_error", "steps", "active_weights", "flop_density_mean")
    assert {name: again[name] for name in same} == {name: summary[name] for name in same}
    assert train(settings, out=tmp_path / "run", threads=1, resume=True) == again
    with pytest.raises(UsageError, match="exists already"):
        train(settings, out=tmp_path / "run", threads=1)


def test_rewinding_gives_back_the_dense_weights_of_that_epoch(short: Callable[..., Settings]):
    dense = make_session(short(method="lottery", density=1.0), Path(".")).model
    with torch.no_grad():
        for index, parameter in enumerate(dense.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).view_as(parameter) + index)
    model = make_session(short(method="static", density=0.1), Path(".")).model
    before = {name: weight.indices for name, weight in regrow.sparse_weights(model).items()}
    rewind(model, dense.state_dict())
    plain = dict(dense.named_parameters())
    for name, weight in regrow.sparse_weights(model).items():
        assert torch.equal(weight.indices, before[name])
        assert torch.equal(weight.values, plain[name].detach().flatten()[weight.indices])
    biases = [name for name, _ in model.named_parameters() if name.endswith("bias")]
    assert biases
    assert all(torch.equal(dict(model.named_parameters())[name], plain[name]) for name in biases)


def test_densities_of_rounds():
    assert round_densities(0.8) == [1.0, 0.8]
    assert round_densities(0.9) == [1.0, 0.9]
    for density in (0.5, 0.05, 0.01):
        densities = round_densities(density)
        assert densities[-1] == density
        assert min(b / a for a, b in pairwise(densities)) >= 0.8 - 1e-12


def test_what_is_no_ticket_is_refused(short: Callable[..., Settings], tmp_path: Path):
    with pytest.raises(UsageError, match="below 1"):
        train(short(method="lottery", density=1.0), out=tmp_path / "run")
    with pytest.raises(UsageError, match="leave it out, and set --epochs"):
        train(short(method="lottery"), out=tmp_path / "run", max_seconds=5)
    with pytest.raises(UsageError, match="rewind_epochs=4"):
        short("rewind_epochs=4")
