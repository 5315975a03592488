"""What the tests of the recipes share: where MNIST is, and short runs on the embedded digits."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning_fabric", reason="the recipes need: pip install 'regrow[recipes]'")
pytest.importorskip("sklearn", reason="the recipes need: pip install 'regrow[recipes]'")
pytest.importorskip("typer", reason="the recipes need: pip install 'regrow[recipes]'")

from regrow.recipes import Settings, make_settings

PREPARE = Path(__file__).resolve().parents[3] / "shared" / "data" / "prepare.sh"
IMAGES = Path("MNIST") / "raw" / "train-images-idx3-ubyte"


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds MNIST: REGROW_DATA, else laid out by ../shared/data/prepare.sh, else the test is skipped."""
    pytest.importorskip("torchvision")
    root = os.environ.get("REGROW_DATA")
    if root and (Path(root) / IMAGES).exists():
        return Path(root)
    if not PREPARE.exists():
        pytest.skip("MNIST is not here; set REGROW_DATA to the folder that holds MNIST/")
    laid_out = tmp_path_factory.mktemp("data")
    subprocess.run([str(PREPARE), str(laid_out)], check=True, stdout=subprocess.DEVNULL)
    return laid_out


@pytest.fixture
def short() -> Callable[..., Settings]:
    """Settings of a run of half a second on the digits."""

    def make(*overrides: str, **settings: Any) -> Settings:
        settings = {"density": None if settings.get("method") == "dense" else 0.1, **settings}
        return make_settings("digits-mlp", overrides=["epochs=4", *overrides], **settings)

    return make
