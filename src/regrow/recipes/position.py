"""Position: where a run stands, and what has been summed up on the way; all of it goes into the checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .machine import peak_memory_mib

__all__ = ["Position"]


@dataclass
class Position:
    """Plain numbers only.

    Attributes:
        epoch: epochs finished. batch: batches done of the epoch under way. step: optimizer steps done.
        loss_sum, epoch_seconds: of the epoch under way.
        train_seconds: of the finished epochs' steps. flop_density_sum: over all steps.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    updates: int = 0
    loss_sum: float = 0.0
    epoch_seconds: float = 0.0
    train_seconds: float = 0.0
    topology_seconds: float = 0.0
    flop_density_start: float = 1.0
    flop_density_sum: float = 0.0
    validation_error: float | None = None
    peak_rss_mb: float = 0.0

    def next_epoch(self) -> None:
        """Closes the epoch under way."""
        self.train_seconds += self.epoch_seconds
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum = self.epoch_seconds = 0.0

    def note_memory(self) -> None:
        """Keeps the largest resident size that this process has had, or an earlier one of the same run."""
        self.peak_rss_mb = max(self.peak_rss_mb, peak_memory_mib())

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
