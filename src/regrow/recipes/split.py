"""Splits of a data set, kept in memory as tensors: a few vectorised calls make a batch, augmented and normalised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from .augmentation import crop_and_flip, draw_moves
from .errors import UsageError
from .randomness import generator

__all__ = ["Data", "Ordered", "Split"]


class Ordered(ABC):
    """What all splits share: their examples in their order, and in the random order of an epoch."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the labels are."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @abstractmethod
    def batch(self, index: Tensor, moves: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The examples of `index`, (B,) int64, varied by `moves`, rows of `epoch_moves`; and their labels."""

    @abstractmethod
    def epoch_moves(self, seed: int, epoch: int) -> Tensor | None:
        """What varies the examples of an epoch, a row each, in its order; None: nothing does."""

    @abstractmethod
    def first(self, images: int) -> Self:
        """So many of the examples, the same ones for every seed."""

    @abstractmethod
    def to(self, device: torch.device, memory_format: torch.memory_format) -> Self:
        """On a device, with batches in a memory format where they are images."""

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All examples in their order, not augmented."""
        for index in torch.arange(len(self), device=self.device).split(size):
            yield self.batch(index)

    def epoch_order(self, seed: int, epoch: int) -> Tensor:
        """The order of the examples in an epoch, (N,) int64."""
        return torch.randperm(len(self), generator=generator(seed, "shuffle", epoch)).to(self.device)

    def epoch_batches(self, seed: int, epoch: int, size: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Index and moves of an epoch's training batches, from batch `first` on; the last one may be smaller."""
        order, moves = self.epoch_order(seed, epoch), self.epoch_moves(seed, epoch)
        for start in range(first * size, len(self), size):
            chosen = slice(start, start + size)
            yield order[chosen], None if moves is None else moves[chosen]


@dataclass(frozen=True)
class Split(Ordered):
    """Examples and their labels.

    Attributes:
        x: (N, C, H, W), float32 as the network takes them, or uint8 pixels.
        y: (N,) int64.
        mean, std: of each channel, (C, 1, 1), in units of `x`; uint8 pixels are normalised by them as batches are made.
        augmented: whether training batches are cropped and flipped at random.
        memory_format: of the batches.
    """

    x: Tensor
    y: Tensor
    mean: Tensor | None = None
    std: Tensor | None = None
    augmented: bool = False
    memory_format: torch.memory_format = torch.contiguous_format

    def __len__(self) -> int:
        return len(self.y)

    @property
    def device(self) -> torch.device:
        return self.y.device

    def batch(self, index: Tensor, moves: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The examples of `index`, ready for the network, and their labels.

        Args:
            index: (B,) int64. moves: rows of `epoch_moves`, (B, 3); None: no augmentation.
        """
        x = self.x.index_select(0, index)
        if moves is not None:
            x = crop_and_flip(x, moves)
        if self.mean is not None and self.std is not None:
            x = x.to(torch.float32).sub_(self.mean).div_(self.std).contiguous(memory_format=self.memory_format)
        return x, self.y.index_select(0, index)

    def epoch_moves(self, seed: int, epoch: int) -> Tensor | None:
        """Crops and flips of an epoch, in its order, (N, 3); None where nothing is augmented."""
        if not self.augmented:
            return None
        return draw_moves(len(self), generator(seed, "augmentation", epoch)).to(self.y.device)

    def first(self, images: int) -> Split:
        """So many of the examples, chosen at random, the same ones for every seed."""
        if images > len(self):
            raise UsageError(f"images={images} must be at most {len(self)}, the size of the training set")
        chosen = torch.randperm(len(self), generator=generator(0, "images"))[:images].sort().values
        return replace(self, x=self.x[chosen], y=self.y[chosen])

    def to(self, device: torch.device, memory_format: torch.memory_format) -> Split:
        """On a device, with batches in a memory format; uint8 pixels stay plane by plane, which the crops need."""
        stored = torch.contiguous_format if self.x.dtype == torch.uint8 else memory_format
        mean, std = (None if part is None else part.to(device) for part in (self.mean, self.std))
        x = self.x.to(device, memory_format=stored)
        return replace(self, x=x, y=self.y.to(device), mean=mean, std=std, memory_format=memory_format)


class Data(NamedTuple):
    """Training, validation and test set; nothing is in two of them."""

    train: Ordered
    validation: Ordered
    test: Ordered

    def to(self, device: torch.device, memory_format: torch.memory_format) -> Data:
        return Data(*(split.to(device, memory_format) for split in self))
