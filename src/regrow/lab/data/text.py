"""Text as a data set: windows of characters, each to be continued by one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from regrow.lab.errors import RunError
from regrow.lab.training.randomness import generator

from .split import AnySplit, Batch, Data

__all__ = ["TextSplit", "shakespeare"]

BLOCK = 128
"""Characters of a window."""

TEST_SHARE = 0.05
"""Share of the text, at its end, that is the test set."""


@dataclass(frozen=True)
class TextSplit(AnySplit):
    """Windows of a text; what follows each token is its label.

    Attributes:
        y: (L,) int64, the tokens.
        starts: (N,) int64, where windows begin.
        block: tokens of a window, less than L.
    """

    y: Tensor
    starts: Tensor
    block: int = BLOCK

    @classmethod
    def whole(cls, tokens: Tensor, block: int = BLOCK) -> TextSplit:
        """Returns all of a text, in windows that do not overlap."""
        return cls(tokens, torch.arange((len(tokens) - 1) // block) * block, block)

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, index: Tensor, moves: Tensor | None = None) -> Batch:
        """See `AnySplit.batch`; the windows, (B, block), and the tokens that follow each of theirs, (B, block).

        Args:
            moves: (B, 1), how far each window is moved on; none goes over the end of the text.
        """
        start = self.starts[index] + (0 if moves is None else moves[:, 0])
        start = start.clamp(max=len(self.y) - 1 - self.block)
        window = self.y[start[:, None] + torch.arange(self.block + 1, device=start.device)]
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()

    def epoch_moves(self, seed: int, epoch: int) -> Tensor | None:
        """Returns how far each window of an epoch is moved on, (N, 1), 0 to block - 1."""
        drawn = torch.randint(self.block, (len(self), 1), generator=generator(seed, "windows", epoch))
        return drawn.to(self.y.device)

    def subset(self, index: Tensor) -> TextSplit:
        return replace(self, starts=self.starts[index])

    def to(self, device: torch.device, memory_format: torch.memory_format) -> TextSplit:
        return replace(self, y=self.y.to(device), starts=self.starts.to(device))


def shakespeare(root: Path, seed: int, validation_fraction: float) -> Data:
    """Tiny Shakespeare (Karpathy 2015) by characters; validation and test are the end of the text, for every seed."""
    file = root / "text" / "tinyshakespeare.txt"
    try:
        text = file.read_text()
    except OSError as error:
        where = "put the text there, or name its folder with --data-dir or REGROW_DATA"
        raise RunError(f"there is no {file} ({error.strerror}); {where}") from None
    alphabet = {character: number for number, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([alphabet[character] for character in text])
    test = round(TEST_SHARE * len(tokens))
    held_out = round(validation_fraction * (len(tokens) - test))
    return Data(*map(TextSplit.whole, tokens.split([len(tokens) - test - held_out, held_out, test])))
