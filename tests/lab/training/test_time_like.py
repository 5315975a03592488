"""Epochs that fit into the time of a dense training are measured once, and belong to the run from then on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regrow.lab import Settings, UsageError
from regrow.lab.cli.app import app
from regrow.lab.recipes.catalog import get_recipe
from regrow.lab.training import time_like
from regrow.lab.training.folder import RunFolder
from regrow.lab.training.time_like import EpochSeconds, fit_epochs, measure_epochs

DENSE_EPOCHS = get_recipe("digits-mlp").epochs


def test_as_many_epochs_as_fit(short: Callable[..., Settings]):
    said: list[str] = []
    fitted = fit_epochs(short(), measure=lambda *_: EpochSeconds(dense=1.0, sparse=0.3), say=said.append)
    assert fitted.recipe.epochs == int(DENSE_EPOCHS / 0.3)
    assert f"{fitted.recipe.epochs} epochs fit into the time of {DENSE_EPOCHS} dense ones" in said[0]
    assert fit_epochs(short(), measure=lambda *_: EpochSeconds(1.0, 1e9), say=said.append).recipe.epochs == 1


@pytest.mark.parametrize("method", ["sparse-momentum", "static", "rigl"])
def test_an_epoch_is_measured(method: str, short: Callable[..., Settings]):
    seconds = measure_epochs(short(method=method))
    assert 0 < seconds.dense < 60
    assert 0 < seconds.sparse < 60


@pytest.mark.parametrize("method", ["dense", "granet", "lottery"])
def test_methods_whose_steps_do_not_stand_for_the_training_are_refused(method: str, short: Callable[..., Settings]):
    density = 1.0 if method == "dense" else 0.1
    with pytest.raises(UsageError, match=f"those of {method} do not stand"):
        fit_epochs(short(method=method, density=density))


def test_a_resumed_run_does_not_measure_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    command = ["train", "digits-mlp", "--density", "0.1", "--time-like", "dense", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(time_like, "measure_epochs", lambda *_: EpochSeconds(dense=2.0, sparse=float(DENSE_EPOCHS)))
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "2 epochs fit" in result.output
    monkeypatch.setattr(time_like, "measure_epochs", None)
    result = CliRunner().invoke(app, [*command, "--resume"])
    assert result.exit_code == 0, result.output
    summary = RunFolder(tmp_path / "run").summary()
    assert summary is not None
    assert summary["epochs"] == summary["settings"]["epochs"] == 2


@pytest.mark.parametrize("more", [["--epochs", "3"], ["--set", "epochs=3"], ["--devices", "2"]])
def test_what_it_would_overrule_is_refused(more: list[str]):
    result = CliRunner().invoke(app, ["train", "digits-mlp", "--time-like", "dense", *more])
    assert result.exit_code != 0
    assert isinstance(result.exception, UsageError | SystemExit)
