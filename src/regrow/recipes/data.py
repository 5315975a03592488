"""Data sets as tensors in memory: one index_select makes a batch, which no DataLoader of Python objects can match."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import RunError
from .randomness import generator

__all__ = ["Data", "Split", "data_root", "digits", "mnist"]

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081


class Split(NamedTuple):
    """Examples and their labels: x (N, C, H, W) float32, y (N,) int64."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device, memory_format: torch.memory_format) -> Split:
        return Split(self.x.to(device, memory_format=memory_format), self.y.to(device))


class Data(NamedTuple):
    """Training, validation and test set; nothing is in two of them."""

    train: Split
    validation: Split
    test: Split

    def to(self, device: torch.device, memory_format: torch.memory_format) -> Data:
        return Data(*(split.to(device, memory_format) for split in self))


def data_root(data_dir: str | Path | None = None) -> Path:
    """Where data sets are looked for: `data_dir`, else the environment variable REGROW_DATA, else ~/.cache/regrow.

    Example:
        >>> data_root("/data")
        PosixPath('/data')
    """
    chosen = data_dir or os.environ.get("REGROW_DATA") or Path.home() / ".cache" / "regrow"
    return Path(chosen).expanduser()


def _held_out(examples: int, seed: int, fraction: float) -> tuple[Tensor, Tensor]:
    """Indices for training and for validation, `fraction` of the examples at random by seed."""
    held_out = round(fraction * examples)
    order = torch.randperm(examples, generator=generator(seed, "validation split"))
    return order[held_out:].sort().values, order[:held_out].sort().values


def digits(root: Path, seed: int, validation_fraction: float) -> Data:
    """scikit-learn's 8x8 digits, pixels divided by 16; a fifth is the test set, the same for every seed."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = torch.as_tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    y = torch.as_tensor(labels, dtype=torch.int64)
    order = torch.randperm(len(y), generator=generator(0, "digits test split"))
    rest, test = order[len(y) // 5 :], order[: len(y) // 5]
    train, validation = _held_out(len(rest), seed, validation_fraction)
    return Data(*(Split(x[i], y[i]) for i in (rest[train], rest[validation], test)))


def mnist(root: Path, seed: int, validation_fraction: float) -> Data:
    """MNIST, normalised by mean 0.1307 and standard deviation 0.3081; its 10,000 test images are the test set."""
    full, test = _torchvision_mnist(root, train=True), _torchvision_mnist(root, train=False)
    train, validation = _held_out(len(full.targets), seed, validation_fraction)
    return Data(
        _normalised(full.data[train], full.targets[train]),
        _normalised(full.data[validation], full.targets[validation]),
        _normalised(test.data, test.targets),
    )


def _normalised(images: Tensor, labels: Tensor) -> Split:
    x = images.unsqueeze(1).float().div_(255).sub_(MNIST_MEAN).div_(MNIST_STD)
    return Split(x, labels.long())


def _torchvision_mnist(root: Path, train: bool) -> Any:
    from torchvision import datasets

    try:
        return datasets.MNIST(str(root), train=train)
    except RuntimeError:
        pass
    try:
        return datasets.MNIST(str(root), train=train, download=True)
    except Exception as error:
        raise RunError(
            f"MNIST is not in {root} (looked for {root}/MNIST/raw/train-images-idx3-ubyte) and could not be downloaded "
            f"({_reason(error)}); put its four files there, or name the folder that holds "
            "MNIST/ with --data-dir or REGROW_DATA"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
