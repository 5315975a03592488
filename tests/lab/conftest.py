"""What the tests of the recipes share: where MNIST and CIFAR-10 are, and runs of a second."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning_fabric", reason="the recipes need: pip install 'regrow[recipes]'")
pytest.importorskip("sklearn", reason="the recipes need: pip install 'regrow[recipes]'")
pytest.importorskip("typer", reason="the recipes need: pip install 'regrow[recipes]'")

from regrow import ops
from regrow.lab import Recipe, Settings, make_settings, models
from regrow.lab.compare.cell_process import Place
from regrow.lab.compare.executors import executor
from regrow.lab.data.split import Data, Split

PREPARE = Path(__file__).resolve().parents[3] / "shared" / "data" / "prepare.sh"
MNIST = Path("MNIST") / "raw" / "train-images-idx3-ubyte"
CIFAR10 = Path("cifar-10-batches-py") / "data_batch_1"
IMAGENETTE = Path("imagenette224") / "train"


@pytest.fixture(autouse=True)
def _own_allocator(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ops, "keep_pages", lambda: True)  # it would stay on for the other tests


def _laid_out(file: Path, folders: pytest.TempPathFactory) -> Path:
    """A folder that holds the file: REGROW_DATA, else made by ../shared/data/prepare.sh, else the test is skipped."""
    pytest.importorskip("torchvision")
    root = os.environ.get("REGROW_DATA")
    if root and (Path(root) / file).exists():
        return Path(root)
    if not PREPARE.exists():
        pytest.skip(f"{file} is not here; set REGROW_DATA to the folder that holds {file.parts[0]}/")
    made = folders.mktemp("data")
    subprocess.run([str(PREPARE), str(made)], check=True, stdout=subprocess.DEVNULL)
    return made


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _laid_out(MNIST, tmp_path_factory)


@pytest.fixture(scope="session")
def cifar10_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _laid_out(CIFAR10, tmp_path_factory)


@pytest.fixture(scope="session")
def imagenette_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _laid_out(IMAGENETTE, tmp_path_factory)


@pytest.fixture(scope="session")
def ray_place() -> Iterator[Callable[[], Place]]:
    """Makes places of a Ray cluster of two processors on this machine."""
    ray = pytest.importorskip("ray", reason="sweeps over machines need: pip install 'regrow[ray]'")
    try:
        ray.init(num_cpus=2, num_gpus=0, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    except Exception as error:  # it gives up after half a minute
        pytest.skip(f"Ray does not start here: {error}")
    with executor("ray", 2, threads=1) as chosen:
        yield chosen.place
    ray.shutdown()


@pytest.fixture
def short() -> Callable[..., Settings]:
    """Settings of a run of half a second on the digits."""

    def make(*overrides: str, **settings: Any) -> Settings:
        settings = {"density": None if settings.get("method") == "dense" else 0.1, **settings}
        return make_settings("digits-mlp", overrides=["epochs=4", *overrides], **settings)

    return make


def _tiny_images(root: Path, seed: int, validation_fraction: float) -> Data:
    """What CIFAR-10 is like, with 360 images of 8x8: three bright thirds, noise, random crops and flips."""
    random = torch.Generator().manual_seed(0)
    y = torch.randint(3, (480,), generator=random)
    x = torch.randint(64, (480, 3, 8, 8), generator=random, dtype=torch.uint8)
    x[torch.arange(480), y] += 128
    mean, std = torch.full((3, 1, 1), 96.0), torch.full((3, 1, 1), 64.0)
    parts = (slice(360), slice(360, 420), slice(420, 480))
    return Data(*(Split(x[part], y[part], mean, std, augmented=part.start is None) for part in parts))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Settings of a run of a second that has what the CIFAR-10 recipes have: crops, flips, batch norm, dropout."""
    monkeypatch.setitem(models.MODELS, "wrn-tiny", partial(models.WideResNet, 10, 1, width=0.5))
    recipe = Recipe(
        name="tiny-images",
        about="for tests",
        model="wrn-tiny",
        data=_tiny_images,
        epochs=3,
        batch_size=32,
        lr=0.1,
        lr_drops=(24, 48),
        schedule_steps=72,
        channels_last=True,
    )

    def make(*overrides: str, **settings: Any) -> Settings:
        return make_settings(recipe, overrides=overrides, **{"density": 0.2, **settings})

    return make
