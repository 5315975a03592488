"""Splits whose examples are image files: worker processes decode, crop and flip whole batches ahead of the training.

Every image is drawn from a number of its own, so that batches are the same for any number of workers. Pixels stay uint8
until the whole batch is normalised.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from regrow.lab.errors import RunError
from regrow.lab.training.randomness import generator

from .reading import Reading
from .split import AnySplit, Batch, Drawn, normalise

__all__ = ["ImageFiles", "ImageSplit", "Pixels"]

CENTRE = 224 / 256
"""The fraction of the shorter side that a centre crop shows, as published for ImageNet."""


class Pixels(NamedTuple):
    """The images read for a batch.

    Attributes:
        kept: (B,) int64, index of the files that could be read.
        pixels: theirs, (B, 3, size, size) uint8.
        corrupt: one text for each of the others.
        gone: errors of missing files.
    """

    kept: Tensor
    pixels: Tensor
    corrupt: list[str]
    gone: list[str]


@dataclass(frozen=True)
class ImageFiles(Dataset[Pixels]):
    """Image files of any size, mode and format that Pillow reads; grayscale, CMYK and palettes become RGB.

    Attributes:
        folder: that holds them.
        files: their paths below it, (N,) bytes: strings would be copied into each worker.
        size: size of the cropped squares, in pixels.
        smallest_crop: smallest crop of an augmented image, as a fraction of its area, above 0 to 1.
    """

    folder: Path
    files: numpy.ndarray[Any, Any]
    size: int
    smallest_crop: float = 0.08

    def __getitem__(self, drawn: Drawn) -> Pixels:
        """The images of an index, (B,) int64: random crops and flips by seeds, (B,) int64; centre crops without them.

        The global generator is as it was before.
        """
        index, seeds = drawn
        transform, state = self._transform(seeds is not None), torch.get_rng_state()
        read, kept = [], []
        corrupt: list[str] = []
        gone: list[str] = []
        for place, number in enumerate(index.tolist()):
            file = self.folder / os.fsdecode(self.files[number])
            try:
                content = file.read_bytes()
            except OSError as error:
                gone.append(f"{file} cannot be read ({error.strerror})")
                continue
            if seeds is not None:
                torch.default_generator.manual_seed(int(seeds[place]))
            try:
                read.append(transform(_decode(content)))
                kept.append(number)
            except Exception as error:  # Pillow raises a dozen kinds
                corrupt.append(f"{file} cannot be decoded ({str(error).splitlines()[0] if str(error) else error!r})")
        torch.set_rng_state(state)
        pixels = torch.stack(read) if read else torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        return Pixels(torch.tensor(kept, dtype=torch.int64), pixels, corrupt, gone)

    def _transform(self, augmented: bool) -> Any:
        from torchvision.transforms import v2

        if augmented:
            cut = [v2.RandomResizedCrop(self.size, scale=(self.smallest_crop, 1.0)), v2.RandomHorizontalFlip()]
        else:
            cut = [v2.Resize(round(self.size / CENTRE)), v2.CenterCrop(self.size)]
        return v2.Compose([*cut, v2.PILToTensor()])


def _decode(content: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(content)).convert("RGB")


@dataclass(frozen=True)
class ImageSplit(AnySplit):
    """Images in files, and their labels.

    Attributes:
        images: the files.
        y: (N,) int64; on the CPU, as the index of a batch is.
        mean: mean of each channel, (3, 1, 1), in units of pixels from 0 to 255.
        std: likewise.
        augmented: whether training batches are cropped and flipped at random.
        how: workers, and what happens to corrupt files.
        device: device of the batches.
        memory_format: memory format of the batches.
    """

    images: ImageFiles
    y: Tensor
    mean: Tensor
    std: Tensor
    augmented: bool = False
    how: Reading = field(default_factory=Reading)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    memory_format: torch.memory_format = torch.contiguous_format

    def batch(self, index: Tensor, moves: Tensor | None = None) -> Batch:
        """See `AnySplit.batch`; moves: (B,) int64. Read here and now, by no worker.

        Raises:
            RunError: a file is gone, or corrupt and not to be skipped, or all are corrupt; with their names.
        """
        return self._ready(self.images[index.cpu(), moves])

    def load(self, drawn: Iterable[Drawn]) -> Iterator[Batch]:
        """See `AnySplit.load`; by worker processes, some batches ahead. Raises RunError as `batch` does."""
        loader: DataLoader[Pixels] = DataLoader(
            self.images,
            sampler=drawn,  # type: ignore[arg-type]  # an item is a whole batch
            batch_size=None,
            num_workers=self.how.processes,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it draws from the global one
        )
        return (self._ready(Pixels(*read)) for read in loader)

    def _ready(self, read: Pixels) -> Batch:
        if read.gone:
            raise RunError(f"{read.gone[0]}; restore the data set, then continue with --resume")
        for text in read.corrupt:
            if not self.how.skip_corrupt:
                raise RunError(f"{text}; replace or delete it, or skip such files with --skip-corrupt")
            self.how.note(f"left out: {text}")
        if not len(read.kept):
            raise RunError(f"no image of a whole batch can be decoded, such as {read.corrupt[0]}; check the data set")
        x = normalise(read.pixels.to(self.device, non_blocking=True), self.mean, self.std, self.memory_format)
        return x, self.y[read.kept].to(self.device, non_blocking=True)

    def epoch_moves(self, seed: int, epoch: int) -> Tensor | None:
        """The seed of each image's crop and flip, in the order of the epoch, (N,); None where nothing is augmented."""
        if not self.augmented:
            return None
        return torch.randint(2**62, (len(self),), generator=generator(seed, "augmentation", epoch))

    def subset(self, index: Tensor) -> ImageSplit:
        images = replace(self.images, files=self.images.files[index.numpy()])
        return replace(self, images=images, y=self.y[index])

    def to(self, device: torch.device, memory_format: torch.memory_format) -> ImageSplit:
        mean, std = self.mean.to(device), self.std.to(device)
        return replace(self, mean=mean, std=std, device=device, memory_format=memory_format)

    def reading(self, how: Reading) -> ImageSplit:
        return replace(self, how=how)
