"""Every method of the command line trains the digits, ends with the density asked for, and can be shown."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import regrow
from lab.comparing import assert_same_run
from regrow.lab import Interrupted, Reporter, Settings, UsageError, train
from regrow.lab.cli.summary import print_network
from regrow.lab.recipes.methods import METHODS
from regrow.lab.training.folder import RunFolder
from regrow.lab.training.position import Position
from regrow.lab.training.session import make_session

SPARSE = [name for name in METHODS if name not in ("dense", "lottery")]  # test_lottery has that
STARTS_DENSE = {
    "gmp",
    "han",
    "dns",
    "ac-dc",
    "granet",
    "chtss",
    "forgetting",
    "karnin",
    "powerpropagation",
    "cs",
    "str",
    "l0",
    "sparse-vd",
}
JUDGES = {"snip", "grasp", "synflow", "obd", "magnitude"}


QUICK = {"sparse-momentum", "rigl", "mest", "gmp", "dns", "snip"}  # tests/updaters/test_methods.py has all of them


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in SPARSE]
)
def test_a_method_learns_and_ends_as_sparse_as_asked(
    method: str, short: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    epochs = 30 if method == "edge-popup" else 6  # whose weights are never trained
    summary = train(short(f"epochs={epochs}", method=method, density=0.2), out=tmp_path / "run", threads=1)
    assert summary["active_weights"] == round(0.2 * summary["prunable_weights"])
    losses = [row["loss"] for row in RunFolder(tmp_path / "run").rows("metrics.jsonl")]
    assert losses[-1] < 0.8 * losses[0]
    assert summary["test_error"] < 45
    assert bool(summary["updates"]) == (method not in JUDGES | {"static"})
    assert (summary["flop_density_start"] == 1.0) == (method in STARTS_DENSE)
    print_network(tmp_path / "run")
    assert f"{summary['active_weights']:,} / {summary['prunable_weights']:,}" in capsys.readouterr().out


STAY_MASKED = sorted(m for m in STARTS_DENSE | {"top-kast", "edge-popup"} if "compress_below" not in METHODS[m].options)


@pytest.mark.parametrize("method", STAY_MASKED)
def test_methods_that_stay_masked_refuse_compressed_storage(
    method: str, short: Callable[..., Settings], tmp_path: Path
):
    with pytest.raises(UsageError, match=f"{method} trains in masked storage to the end"):
        train(short(method=method, storage="compressed"), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("granet", ["initial_density=0.5"]),
        pytest.param("gmp", [], marks=pytest.mark.slow),
        pytest.param("ac-dc", ["compress_below=0.25"], marks=pytest.mark.slow),
    ],
)
def test_a_run_that_becomes_compressed_is_resumed_to_its_bits(
    method: str, options: list[str], short: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Stopped after every epoch, so before the switch, with it and after it."""
    settings = short("epochs=4", *options, method=method, density=0.1, storage="compressed")
    summary = train(settings, out=tmp_path / "run", threads=1)
    assert "compressed" in summary["storage"]
    assert summary["flop_density_start"] == (0.5 if options == ["initial_density=0.5"] else 1.0)
    print_network(tmp_path / "run")
    assert "compressed" in capsys.readouterr().out
    for epoch in (1, 2, 3, 4):
        stop = SignalAt(epoch) if epoch < 4 else Reporter()
        with suppress(Interrupted):
            train(settings, out=tmp_path / "stopped", threads=1, resume=True, reporter=stop)
    assert_same_run(tmp_path / "stopped", tmp_path / "run")


class SignalAt(Reporter):
    """Stops a run in the middle of an epoch."""

    def __init__(self, epoch: int):
        self._epoch = epoch

    def batch(self, position: Position) -> None:
        if (position.epoch, position.batch) == (self._epoch, 17):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_limit_that_changes_nothing_is_refused(short: Callable[..., Settings]):
    with pytest.raises(UsageError, match="changes nothing without --storage compressed"):
        short("compress_below=0.2", method="gmp", density=0.1)


@pytest.mark.parametrize("method", sorted(JUDGES))
def test_methods_at_initialisation_leave_the_run_as_it_would_be(method: str, short: Callable[..., Settings]):
    """Judging draws nothing and changes nothing: the weights that are kept are those of the dense network."""
    session = make_session(short(method=method), Path("."))
    state = torch.get_rng_state()
    dense = make_session(short(method="dense"), Path("."))
    assert torch.equal(state, torch.get_rng_state())
    plain = dict(dense.model.named_parameters())
    for name, weight in regrow.sparse_weights(session.model).items():
        assert torch.equal(weight.values, plain[name].detach().flatten()[weight.indices])


def test_a_density_that_was_not_reached_is_said(short: Callable[..., Settings], tmp_path: Path):
    said: list[str] = []

    class Notes(Reporter):
        def note(self, text: str) -> None:
            said.append(text)

    settings = short("epochs=1", "update_every=1000", method="gmp", density=0.2)
    train(settings, out=tmp_path / "run", threads=1, reporter=Notes())
    (text,) = said
    assert text.startswith("50200 weights are active, not 10040")
    assert "--update-every" in text


def test_settings_of_the_recipe_reach_the_updater(short: Callable[..., Settings]):
    rate = make_session(short("prune_rate=0.125", method="rigl"), Path(".")).updater._schedule(0)  # type: ignore[union-attr]
    assert rate == 0.125
    default = make_session(short(method="rigl"), Path(".")).updater._schedule(0)  # type: ignore[union-attr]
    assert default == 0.3
