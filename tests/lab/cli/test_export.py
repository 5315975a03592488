"""`regrow export`: a checkpoint in every format computes what the run's network computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import regrow
from lab.commands import run
from regrow.lab import make_settings, models, train
from regrow.lab.recipes.optimizer import make_optimizer
from regrow.lab.training.restored import load_network


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose settings are not its recipe's: fc3 is dense."""
    out = tmp_path_factory.mktemp("runs") / "run"
    train(make_settings("digits-mlp", density=0.1, overrides=["epochs=2", "dense=fc3"]), out=out, threads=1)
    return out


def export(folder: Path, to: str, out: Path, *options: str):
    return run("export", str(folder), "--to", to, "--out", str(out), *options)


def plain() -> nn.Module:
    return models.build("digits-mlp").eval()


def onnx(file: Path, x: torch.Tensor) -> torch.Tensor:
    from regrow.export.onnx import onnx_session

    return torch.from_numpy(onnx_session(file)(x)[0])


def state(file: Path) -> dict[str, torch.Tensor]:
    return {name: value.to_dense() for name, value in torch.load(file, weights_only=True).items()}


def with_state(file: Path) -> nn.Module:
    model = plain()
    model.load_state_dict(state(file))
    return model


COMPUTES = {
    "dense": lambda file, x: with_state(file)(x),
    "compact": lambda file, x: regrow.export.load_compact(file, plain())(x),
    "safetensors": lambda file, x: regrow.load(file, plain())(x),
    "torch-sparse": lambda file, x: with_state(file)(x),
    "onnx": onnx,
}


@pytest.mark.parametrize("to", COMPUTES)
def test_every_format_computes_the_same(folder: Path, tmp_path: Path, to: str):
    if to == "onnx":
        pytest.importorskip("onnxscript")
    result = export(folder, to, tmp_path / "file")
    assert result.exit_code == 0, result.output
    assert f"{(tmp_path / 'file').stat().st_size:,} bytes" in result.stdout
    x = torch.rand(5, 1, 8, 8)
    _, model, _ = load_network(folder)
    torch.testing.assert_close(COMPUTES[to](tmp_path / "file", x), model.eval()(x), rtol=0, atol=1e-5)


def test_a_checkpoint_makes_the_round_trip_to_the_bit(folder: Path, tmp_path: Path):
    assert export(folder, "safetensors", tmp_path / "file", "--optimizer").exit_code == 0
    settings, _, checkpoint = load_network(folder)
    model = regrow.load(tmp_path / "file", plain())
    optimizer = make_optimizer(model, settings.recipe)
    regrow.export.load_optimizer(tmp_path / "file", model, optimizer)
    found = {"model": model.state_dict(), "optimizer": optimizer.state_dict()["state"]}
    wanted = {"model": checkpoint["model"], "optimizer": checkpoint["optimizer"]["state"]}
    assert found["model"].keys() == wanted["model"].keys()
    assert all(torch.equal(found["model"][name], wanted["model"][name]) for name in wanted["model"])
    assert found["optimizer"].keys() == wanted["optimizer"].keys()
    for index, of_parameter in wanted["optimizer"].items():
        assert torch.equal(found["optimizer"][index]["momentum_buffer"], of_parameter["momentum_buffer"])


@pytest.mark.parametrize(
    ("to", "options", "code", "remedy"),
    [
        ("sparse", [], 2, "the formats are dense, compact, safetensors"),
        ("dense", ["--optimizer"], 2, "use --to safetensors"),
    ],
)
def test_what_cannot_be_is_one_line(folder: Path, tmp_path: Path, to: str, options: list[str], code: int, remedy: str):
    result = export(folder, to, tmp_path / "file", *options)
    assert (result.exit_code, result.stderr.count("\n")) == (code, 1)
    assert remedy in result.stderr
    assert "name a file with --out" in export(folder, "dense", tmp_path).stderr
    assert "name a folder from regrow train" in export(tmp_path / "nowhere", "dense", tmp_path / "file").stderr
    assert not list(tmp_path.iterdir())
