"""Text as a data set: windows of characters, each to be continued by one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .errors import RunError, UsageError
from .randomness import generator
from .split import Data, Ordered

__all__ = ["TextSplit", "shakespeare"]

BLOCK = 128
"""Characters of a window."""

TEST_SHARE = 0.05
"""Share of the text, at its end, that is the test set."""


@dataclass(frozen=True)
class TextSplit(Ordered):
    """A text as windows of `block` tokens; what follows each token is its label.

    Attributes:
        tokens: (L,) int64, L > block. block: tokens of a window.
    """

    tokens: Tensor
    block: int = BLOCK

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    def __len__(self) -> int:
        """Windows that do not overlap."""
        return (len(self.tokens) - 1) // self.block

    def batch(self, index: Tensor, moves: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The windows of `index`, (B, block), and the tokens that follow each of theirs, (B, block).

        Args:
            index: (B,) int64. moves: rows of `epoch_moves`, (B, 1); None: windows begin at multiples of `block`.
        """
        start = index * self.block if moves is None else index * self.block + moves[:, 0]
        start = start.clamp(max=len(self.tokens) - 1 - self.block)
        places = start[:, None] + torch.arange(self.block + 1, device=start.device)
        window = self.tokens[places]
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()

    def epoch_moves(self, seed: int, epoch: int) -> Tensor | None:
        """How far each window of an epoch is moved on, (N, 1), 0 to block - 1."""
        drawn = torch.randint(self.block, (len(self), 1), generator=generator(seed, "windows", epoch))
        return drawn.to(self.tokens.device)

    def first(self, images: int) -> TextSplit:
        """So many windows, from the beginning of the text."""
        if images > len(self):
            raise UsageError(f"images={images} must be at most {len(self)}, the windows of the training text")
        return replace(self, tokens=self.tokens[: images * self.block + 1])

    def to(self, device: torch.device, memory_format: torch.memory_format) -> TextSplit:
        return replace(self, tokens=self.tokens.to(device))


def shakespeare(root: Path, seed: int, validation_fraction: float) -> Data:
    """Tiny Shakespeare (Karpathy 2015) by characters; validation and test are the end of the text, for every seed."""
    file = root / "text" / "tinyshakespeare.txt"
    try:
        text = file.read_text()
    except OSError as error:
        raise RunError(
            f"there is no {file} ({error.strerror}); put the text there, or name its folder with --data-dir "
            "or REGROW_DATA"
        ) from None
    alphabet = {character: number for number, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([alphabet[character] for character in text])
    test = round(TEST_SHARE * len(tokens))
    held_out = round(validation_fraction * (len(tokens) - test))
    return Data(*(TextSplit(part) for part in tokens.split([len(tokens) - test - held_out, held_out, test])))
