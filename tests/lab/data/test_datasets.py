"""Data sets as tensors."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch

from regrow.lab import RunError
from regrow.lab.data.datasets import CIFAR10_MEAN, CIFAR10_STD, MNIST_MEAN, MNIST_STD, cifar10, data_root, digits, mnist
from regrow.lab.data.split import Data


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


@pytest.fixture(scope="module")
def cifar(cifar10_root: Path) -> Data:
    return cifar10(cifar10_root, 0, 0.1)


def test_cifar10_is_kept_as_pixels(cifar: Data):
    assert [tuple(split.x.shape) for split in cifar] == [(n, 3, 32, 32) for n in (45_000, 5_000, 10_000)]
    assert {split.x.dtype for split in cifar} == {torch.uint8}
    assert [split.augmented for split in cifar] == [True, False, False]
    assert torch.bincount(cifar.validation.y, minlength=10).min() > 400


def test_cifar10_is_split_alike_for_every_seed(monkeypatch: pytest.MonkeyPatch):
    pixels = numpy.random.default_rng(0).integers(256, size=(50, 32, 32, 3), dtype=numpy.uint8)
    few = SimpleNamespace(data=pixels, targets=list(range(50)))
    monkeypatch.setattr("regrow.lab.data.datasets._from_torchvision", lambda kind, root, train: few)
    splits = [cifar10(Path("."), seed, 0.1).validation.y.tolist() for seed in (0, 1)]
    assert splits[0] == splits[1] != list(range(45, 50))


def test_cifar10_is_normalised_by_channel(cifar: Data):
    x, _ = cifar.train.batch(torch.arange(8_000))
    assert x.dtype == torch.float32
    assert x.mean((0, 2, 3)).abs().max() < 0.03
    of_images = x.std((2, 3)).mean(0)
    assert (of_images - 1).abs().max() < 0.02
    x, _ = cifar.test.batch(torch.tensor([7]))
    pixels = torch.tensor(CIFAR10_STD).view(3, 1, 1) * x[0] + torch.tensor(CIFAR10_MEAN).view(3, 1, 1)
    torch.testing.assert_close(255 * pixels, cifar.test.x[7].float())


@pytest.mark.parametrize(
    ("load", "kind", "server", "file"),
    [
        (mnist, "MNIST", {"mirrors": ["http://127.0.0.1:9/"]}, "MNIST/raw/train-images-idx3-ubyte"),
        (cifar10, "CIFAR10", {"url": "http://127.0.0.1:9/"}, "cifar-10-batches-py/data_batch_1"),
    ],
)
def test_missing_data_is_explained(load, kind, server, file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("torchvision").datasets
    for name, value in server.items():
        monkeypatch.setattr(getattr(datasets, kind), name, value)
    with pytest.raises(RunError, match=r"--data-dir or REGROW_DATA") as error:
        load(tmp_path / "nowhere", 0, 0.1)
    assert f"{kind} is not in {tmp_path / 'nowhere'} (looked for {tmp_path / 'nowhere' / file})" in str(error.value)


def test_a_file_that_is_cut_short_is_explained(tmp_path: Path):
    pytest.importorskip("torchvision")
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, 10, 28, 28) + bytes(28))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, 10) + bytes(10))
    with pytest.raises(RunError, match=f"MNIST in {raw} cannot be read .*: a file is damaged or cut short"):
        mnist(tmp_path, 0, 0.1)


def test_data_root_falls_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REGROW_DATA", "/somewhere")
    assert data_root("/here") == Path("/here")
    assert data_root() == Path("/somewhere")
    monkeypatch.delenv("REGROW_DATA")
    assert data_root() == Path.home() / ".cache" / "regrow"
