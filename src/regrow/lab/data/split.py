"""Splits of a data set, kept in memory as tensors: a few vectorised calls make a batch, augmented and normalised.

`images.ImageSplit` is the other kind, whose examples are files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from regrow.lab.errors import UsageError
from regrow.lab.training.randomness import generator

from .augmentation import crop_and_flip, draw_moves
from .reading import Reading

__all__ = ["AnySplit", "Batch", "Data", "Drawn", "Split", "normalise"]

Drawn = tuple[Tensor, Tensor | None]
"""The draws that decide a batch: the index of its examples, (B,) int64, and their rows of `epoch_moves`."""

Batch = tuple[Tensor, Tensor]
"""The input of the network, (B, C, H, W) float32, and the labels, (B,) int64."""


class AnySplit(ABC):
    """Examples and their labels, wherever they are kept: what is drawn for an epoch, and the batches made of it.

    Attributes:
        y: (N,) int64.
    """

    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    @abstractmethod
    def batch(self, index: Tensor, moves: Tensor | None = None) -> Batch:
        """The examples of `index`, ready for the network, and their labels.

        Args:
            index: (B,) int64.
            moves: rows of `epoch_moves`; None: no augmentation.
        """

    @abstractmethod
    def epoch_moves(self, seed: int, epoch: int) -> Tensor | None:
        """Returns how an epoch's examples are augmented, in its order, a row each; None where nothing is."""

    @abstractmethod
    def subset(self, index: Tensor) -> AnySplit:
        """The examples of `index` alone."""

    @abstractmethod
    def to(self, device: torch.device, memory_format: torch.memory_format) -> AnySplit:
        """Returns a split with batches on a device, in a memory format."""

    def reading(self, how: Reading) -> AnySplit:
        """Returns a split that reads files in that way, or itself if it has no files."""
        return self

    def load(self, drawn: Iterable[Drawn]) -> Iterator[Batch]:
        """The batches that are drawn, in their order."""
        return (self.batch(index, moves) for index, moves in drawn)

    def batches(self, size: int, first: int = 0, every: int = 1) -> Iterator[Batch]:
        """Yields all examples in order, not augmented; from batch `first` on, one batch in `every`."""
        chosen = torch.arange(len(self), device=self.y.device).split(size)[first::every]
        return self.load((index, None) for index in chosen)

    def epoch_order(self, seed: int, epoch: int) -> Tensor:
        """The order of the examples in an epoch, (N,) int64."""
        return torch.randperm(len(self), generator=generator(seed, "shuffle", epoch)).to(self.y.device)

    def epoch_batches(self, seed: int, epoch: int, size: int, first: int = 0) -> Iterator[Drawn]:
        """Index and moves of an epoch's training batches, from batch `first` on; the last one may be smaller."""
        order, moves = self.epoch_order(seed, epoch), self.epoch_moves(seed, epoch)
        for start in range(first * size, len(self), size):
            chosen = slice(start, start + size)
            yield order[chosen], None if moves is None else moves[chosen]

    def first(self, images: int) -> AnySplit:
        """So many of the examples, chosen at random, the same ones for every seed."""
        if images > len(self):
            raise UsageError(f"images={images} must be at most {len(self)}, the size of the training set")
        return self.subset(torch.randperm(len(self), generator=generator(0, "images"))[:images].sort().values)


@dataclass(frozen=True)
class Split(AnySplit):
    """Examples in memory, and their labels.

    Attributes:
        x: (N, C, H, W), float32 as the network takes them, or uint8 pixels.
        y: (N,) int64.
        mean: mean of each channel, (C, 1, 1), in units of `x`; uint8 pixels are normalised by them as batches are made.
        std: likewise.
        augmented: whether training batches are cropped and flipped at random.
        memory_format: memory format of the batches.
    """

    x: Tensor
    y: Tensor
    mean: Tensor | None = None
    std: Tensor | None = None
    augmented: bool = False
    memory_format: torch.memory_format = torch.contiguous_format

    def batch(self, index: Tensor, moves: Tensor | None = None) -> Batch:
        """See `AnySplit.batch`; moves: (B, 3), from `draw_moves`."""
        x = self.x.index_select(0, index)
        if moves is not None:
            x = crop_and_flip(x, moves)
        if self.mean is not None and self.std is not None:
            x = normalise(x, self.mean, self.std, self.memory_format)
        return x, self.y.index_select(0, index)

    def epoch_moves(self, seed: int, epoch: int) -> Tensor | None:
        """Crops and flips of an epoch, in its order, (N, 3); None where nothing is augmented."""
        if not self.augmented:
            return None
        return draw_moves(len(self), generator(seed, "augmentation", epoch)).to(self.y.device)

    def subset(self, index: Tensor) -> Split:
        return replace(self, x=self.x[index], y=self.y[index])

    def to(self, device: torch.device, memory_format: torch.memory_format) -> Split:
        """Returns a split on a device, in a memory format; uint8 pixels stay plane by plane, as crops need them."""
        stored = torch.contiguous_format if self.x.dtype == torch.uint8 else memory_format
        mean, std = (None if part is None else part.to(device) for part in (self.mean, self.std))
        x = self.x.to(device, memory_format=stored)
        return replace(self, x=x, y=self.y.to(device), mean=mean, std=std, memory_format=memory_format)


def normalise(pixels: Tensor, mean: Tensor, std: Tensor, memory_format: torch.memory_format) -> Tensor:
    """uint8 pixels, (B, C, H, W), as float32 with each channel's mean, (C, 1, 1), and deviation taken out."""
    return pixels.to(torch.float32).sub_(mean).div_(std).contiguous(memory_format=memory_format)


class Data(NamedTuple):
    """Training, validation and test set; nothing is in two of them."""

    train: AnySplit
    validation: AnySplit
    test: AnySplit

    def to(self, device: torch.device, memory_format: torch.memory_format) -> Data:
        return Data(*(split.to(device, memory_format) for split in self))

    def reading(self, how: Reading) -> Data:
        return Data(*(split.reading(how) for split in self))
