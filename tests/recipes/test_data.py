"""Data sets as tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from regrow.recipes import RunError
from regrow.recipes.data import MNIST_MEAN, MNIST_STD, Data, data_root, digits, mnist


def as_set(data: Data) -> set[bytes]:
    return {x.numpy().tobytes() for split in data for x in split.x}


def test_digits_are_split_by_seed_but_tested_on_the_same_examples():
    one, again, other = (digits(Path("."), seed, 0.1) for seed in (0, 0, 1))
    assert [len(split.y) for split in one] == [1294, 144, 359]
    assert torch.equal(one.train.x, again.train.x)
    assert not torch.equal(one.validation.x, other.validation.x)
    assert torch.equal(one.test.x, other.test.x)
    assert len(as_set(one)) > 1790  # splits are disjoint (a few digits are equal)


def test_mnist_is_normalised_and_a_tenth_is_held_out_at_random(mnist_root: Path):
    data = mnist(mnist_root, 0, 0.1)
    assert [tuple(split.x.shape) for split in data] == [(n, 1, 28, 28) for n in (54_000, 6_000, 10_000)]
    x = torch.cat([data.train.x, data.validation.x])
    assert x.mean().abs() < 1e-3
    assert (x.std() - 1).abs() < 1e-3
    assert data.test.x.min() == pytest.approx(-MNIST_MEAN / MNIST_STD)
    assert torch.bincount(data.validation.y, minlength=10).min() > 400


def test_missing_mnist_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("torchvision").datasets
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(RunError, match=r"train-images-idx3-ubyte.*--data-dir or REGROW_DATA") as error:
        mnist(tmp_path / "nowhere", 0, 0.1)
    assert str(tmp_path / "nowhere") in str(error.value)


def test_data_root_falls_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REGROW_DATA", "/somewhere")
    assert data_root("/here") == Path("/here")
    assert data_root() == Path("/somewhere")
    monkeypatch.delenv("REGROW_DATA")
    assert data_root() == Path.home() / ".cache" / "regrow"
