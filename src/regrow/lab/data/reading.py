"""Reading: how examples are read that are files; nothing of it changes the bits of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Reading"]

MOST_WORKERS = 8


@dataclass(frozen=True)
class Reading:
    """Settings for reading files.

    Attributes:
        workers: processes that read ahead; 0: none, batches are made as they are needed; None: as many as torch has
            threads, at most 8.
        skip_corrupt: leave out a file that cannot be decoded, instead of ending the run.
        note: is told of each file that is left out.
    """

    workers: int | None = None
    skip_corrupt: bool = False
    note: Callable[[str], None] = print

    @property
    def processes(self) -> int:
        return min(torch.get_num_threads(), MOST_WORKERS) if self.workers is None else self.workers
