"""The data sets: where they are, how they are split and normalised."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from regrow.lab.errors import RunError, reason
from regrow.lab.training.randomness import generator

from .images import ImageFiles, ImageSplit
from .split import Data, Split

__all__ = ["cifar10", "data_root", "digits", "image_folder", "informative_table", "mnist", "wide_table"]

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""Published values; these deviations are means over images, smaller than those over all pixels."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_FILES = {"MNIST": "MNIST/raw/train-images-idx3-ubyte", "CIFAR10": "cifar-10-batches-py/data_batch_1"}
"""A file of each data set of torchvision, by which a person can tell where it is looked for."""


def data_root(data_dir: str | Path | None = None) -> Path:
    """Returns where to look for data sets: `data_dir`, else the environment variable REGROW_DATA, else ~/.cache/regrow.

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


TABLE_INPUTS = 10_000


@cache
def informative_table() -> tuple[Tensor, Tensor]:
    """20,000 examples of ten classes, made by scikit-learn's `make_classification` (after Guyon 2003).

    Of the 10,000 inputs 20 tell the class, and nobody says which; the others are noise.

    Returns:
        x (20000, 10000) float32 and y (20000,) int64, the same for every seed, in no order.
    """
    from sklearn.datasets import make_classification

    x, y = make_classification(
        20_000, TABLE_INPUTS, n_informative=20, n_redundant=0, n_classes=10, class_sep=2.5, flip_y=0.0, random_state=0
    )
    return torch.from_numpy(x.astype("float32")), torch.from_numpy(y)


def wide_table(root: Path, seed: int, validation_fraction: float) -> Data:
    """The examples of `informative_table`; the last 3,000 are the test set."""
    x, y = informative_table()
    train, validation = _held_out(17_000, seed, validation_fraction)
    return Data(*(Split(x[i], y[i]) for i in (train, validation, torch.arange(17_000, len(y)))))


def mnist(root: Path, seed: int, validation_fraction: float) -> Data:
    """MNIST, normalised by mean 0.1307 and standard deviation 0.3081; its 10,000 test images are the test set."""
    full, test = _from_torchvision("MNIST", root, train=True), _from_torchvision("MNIST", root, train=False)
    train, validation = _held_out(len(full.targets), seed, validation_fraction)
    return Data(
        _normalised(full.data[train], full.targets[train]),
        _normalised(full.data[validation], full.targets[validation]),
        _normalised(test.data, test.targets),
    )


def _normalised(images: Tensor, labels: Tensor) -> Split:
    x = images.unsqueeze(1).float().div_(255).sub_(MNIST_MEAN).div_(MNIST_STD)
    return Split(x, labels.long())


def cifar10(root: Path, seed: int, validation_fraction: float) -> Data:
    """CIFAR-10, normalised by channel, training images cropped and flipped; its 10,000 test images are the test set.

    The validation set is the same for every seed, as in the published protocol.
    """
    full, test = _from_torchvision("CIFAR10", root, train=True), _from_torchvision("CIFAR10", root, train=False)
    train, validation = _held_out(len(full.targets), 0, validation_fraction)
    x, y = _pixels(full)
    mean, std = _of_pixels(CIFAR10_MEAN), _of_pixels(CIFAR10_STD)
    return Data(
        Split(x[train], y[train], mean, std, augmented=True),
        Split(x[validation], y[validation], mean, std),
        Split(*_pixels(test), mean, std),
    )


def image_folder(name: str, size: int, smallest_crop: float, root: Path, seed: int, validation_fraction: float) -> Data:
    """Photographs in root/name/train/CLASS/ and root/name/val/CLASS/, any number of classes; val/ is the test set.

    Training images are cropped at random, of any shape from 3:4 to 4:3, and flipped; of the others the centre is taken.
    The validation set is part of train/, the same for every seed. Normalised by ImageNet's channels.

    Args:
        size: size of the images that the network gets, in pixels.
        smallest_crop: smallest crop, as a fraction of the photograph's area.

    Raises:
        RunError: the folders are not there, or hold different classes.
    """
    full, test = (_photographs(root / name / part) for part in ("train", "val"))
    if full.classes != test.classes:
        odd = sorted(set(full.classes) ^ set(test.classes))
        raise RunError(f"{root / name}: train/ and val/ must hold the same classes; {odd[0]} is in only one of them")
    train, validation = _held_out(len(full.samples), 0, validation_fraction)
    mean, std = _of_pixels(IMAGENET_MEAN), _of_pixels(IMAGENET_STD)

    def split(dataset: Any, index: Tensor, augmented: bool = False) -> ImageSplit:
        below = len(os.path.join(dataset.root, ""))
        files = numpy.array([os.fsencode(dataset.samples[i][0][below:]) for i in index.tolist()])
        images = ImageFiles(Path(dataset.root), files, size, smallest_crop)
        return ImageSplit(images, torch.tensor(dataset.targets)[index], mean, std, augmented)

    everything = torch.arange(len(test.samples))
    return Data(split(full, train, augmented=True), split(full, validation), split(test, everything))


def _photographs(folder: Path) -> Any:
    """The files of a folder that has one for each class."""
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise RunError(
            f"there are no images in {folder} ({reason(error)}); it must hold a folder for each class. "
            f"Name the folder that holds {folder.parent.name}/ with --data-dir or REGROW_DATA"
        ) from error


def _of_pixels(share: tuple[float, float, float]) -> Tensor:
    """A value of each channel as (3, 1, 1), in units of pixels from 0 to 255."""
    return 255 * torch.tensor(share).view(3, 1, 1)


def _pixels(dataset: Any) -> tuple[Tensor, Tensor]:
    """Images of torchvision, (N, H, W, C), as (N, C, H, W), and their labels."""
    return torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(dataset.targets)


def _from_torchvision(kind: str, root: Path, train: bool) -> Any:
    """Loads a data set from disk, or downloads it."""
    from torchvision import datasets

    load = getattr(datasets, kind)
    file = Path(_FILES[kind])
    try:
        return load(str(root), train=train)
    except Exception as error:
        if "download=True" not in str(error):  # which torchvision advises where a file is not there
            raise RunError(
                f"{kind} in {(root / file).parent} cannot be read ({reason(error)}): a file is damaged or cut short; "
                "replace it"
            ) from error
    try:
        return load(str(root), train=train, download=True)
    except Exception as error:
        raise RunError(
            f"{kind} is not in {root} (looked for {root / file}) and could not be downloaded ({reason(error)}); "
            f"put its files there, or name the folder that holds {file.parts[0]}/ with --data-dir or REGROW_DATA"
        ) from error
