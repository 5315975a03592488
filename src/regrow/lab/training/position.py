"""Position: where a run stands, and what has been summed up on the way; all of it goes into the checkpoint."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from regrow.lab.machine import peak_memory_mib

__all__ = ["Position"]


@dataclass
class Position:
    """Plain numbers only.

    Attributes:
        epoch: epochs finished.
        batch: batches done in the current epoch.
        step: optimizer steps done.
        loss_sum: sum of the losses of the current epoch.
        epoch_seconds: seconds of the steps of the current epoch, without topology updates.
        epoch_topology_seconds: seconds of the topology updates of the current epoch.
        prune_rate: prune rate of the last update.
        epoch_wait_seconds: those of them in which the step had no batch yet.
        train_seconds: seconds of the steps of finished epochs, without topology updates.
        wait_seconds: seconds of waiting for data, in finished epochs.
        topology_seconds: seconds of all updates since the start.
        validation_seconds: seconds of all validations since the start.
        flop_density_sum: over all steps, of `flops.flop_density`.
        step_flops_sum: over all steps, of `flops.step_flops`; NaN in a run that began before it was counted.
        ended: before the last epoch, because its time was over.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    updates: int = 0
    loss_sum: float = 0.0
    epoch_seconds: float = 0.0
    epoch_topology_seconds: float = 0.0
    epoch_wait_seconds: float = 0.0
    prune_rate: float | None = None
    train_seconds: float = 0.0
    wait_seconds: float = 0.0
    topology_seconds: float = 0.0
    validation_seconds: float = 0.0
    flop_density_start: float = 1.0
    flop_density_sum: float = 0.0
    step_flops_sum: float = math.nan
    validation_error: float | None = None
    validation_loss: float | None = None
    peak_rss_mb: float = 0.0
    ended: bool = False

    @property
    def seconds_of_training(self) -> float:
        """Seconds of all steps and topology updates so far."""
        return self.train_seconds + self.epoch_seconds + self.topology_seconds

    def next_epoch(self) -> None:
        """Closes the current epoch."""
        self.train_seconds += self.epoch_seconds
        self.wait_seconds += self.epoch_wait_seconds
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum = self.epoch_seconds = self.epoch_topology_seconds = self.epoch_wait_seconds = 0.0
        self.prune_rate = None

    def note_memory(self) -> None:
        """Keeps the largest resident size that this process has had, or an earlier one of the same run."""
        self.peak_rss_mb = max(self.peak_rss_mb, peak_memory_mib())

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
