"""The recipe wide-mlp, at small widths: it trains, resumes, and nothing of it needs dense tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import regrow
from lab.training.test_resume import SignalAt, assert_same_run
from regrow.lab import Interrupted, UsageError, get_recipe, make_settings
from regrow.lab.cli.summary import print_network
from regrow.lab.recipes.methods import make_network, make_sparse, prunable_weights
from regrow.lab.training.loop import train
from regrow.lab.training.topology_file import load_topology

WIDTH = 300
SMALL = ["images=1500", f"width={WIDTH}", "epochs=2", "batch_size=50", "update_every=6", "validation_fraction=0.01"]


@pytest.fixture
def nothing_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of more than 1,000 positions are handled as those of more than 2^26 are."""
    for module in ("criteria", "topology.initial", "momentum.collector", "lab.training.topology_file"):
        monkeypatch.setattr(f"regrow.{module}.LARGEST_TENSOR", 1_000)


@pytest.mark.usefixtures("nothing_dense")
@pytest.mark.parametrize("method", ["sparse-momentum", "set"])
def test_training_and_resuming(mnist_root: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]):
    settings = make_settings("wide-mlp", method=method, density=0.03, overrides=SMALL)
    whole = train(settings, out=tmp_path / "whole", data_dir=mnist_root)
    with pytest.raises(Interrupted):  # within a window, of which step 17 is the first
        train(settings, out=tmp_path / "part", data_dir=mnist_root, reporter=SignalAt(epoch=0, batch=17))
    train(settings, out=tmp_path / "part", data_dir=mnist_root, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "part")
    assert whole["prunable_weights"] == 784 * WIDTH + WIDTH**2
    assert whole["active_weights"] == round(0.03 * whole["prunable_weights"])
    assert whole["updates"] == 9
    assert whole["test_error"] < 60

    topology = load_topology(tmp_path / "whole" / "topology.npz")
    assert topology.density == pytest.approx(0.03, rel=1e-3)
    again = make_sparse(make_network(settings.recipe), settings, topology.masks)
    for name, weight in regrow.sparse_weights(again).items():
        assert weight.active == topology.about["active"][name]
        assert torch.equal(weight.indices, topology.masks[name])
    print_network(tmp_path / "whole")
    assert f"fc2.weight  {WIDTH}x{WIDTH}" in capsys.readouterr().out


def test_the_recipe_as_it_stands():
    """250 GB dense; 8 million weights of 62.7 billion."""
    recipe = get_recipe("wide-mlp")
    network = make_network(recipe)
    assert network.fc2.weight.is_meta
    assert network.fc2.weight.numel() * 4 == 250e9
    numel = prunable_weights(network, recipe.dense)
    assert make_settings("wide-mlp").density == recipe.default_density
    assert 7e6 < recipe.default_density * numel < 9e6


def test_outputs_keep_their_size_whatever_the_width():
    x = torch.randn(50, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    sizes = []
    for width in (300, 3000):
        torch.manual_seed(0)
        settings = make_settings("wide-mlp", density=32 / (784 + width), overrides=[f"width={width}"])
        sizes.append(make_sparse(make_network(settings.recipe), settings)(x).std().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.3)


def test_a_dense_one_is_made_where_it_fits():
    settings = make_settings("wide-mlp", method="dense", overrides=["width=20"])
    assert not any(p.is_meta for p in make_sparse(make_network(settings.recipe), settings).parameters())
    wide = make_settings("wide-mlp", method="dense")
    with pytest.raises(ValueError, match=r"fc2.weight: a dense tensor of its 62,500,000,000 positions takes 250 GB"):
        make_sparse(make_network(wide.recipe), wide)


def test_a_width_for_a_network_without():
    settings = make_settings("digits-mlp", overrides=["width=20"])
    with pytest.raises(UsageError, match="width=20: digits-mlp has no such option"):
        make_network(settings.recipe)
