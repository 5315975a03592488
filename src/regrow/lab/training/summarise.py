"""The summary of a finished run; its keys are frozen, because tables and reports read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from statistics import median
from typing import Any

import torch

import regrow
from regrow.distributed import gradient_bytes

from .position import Position
from .session import Evaluation, Session

__all__ = ["summarise"]


def summarise(
    session: Session, position: Position, metrics: Sequence[Mapping[str, Any]], test: Evaluation
) -> dict[str, Any]:
    """Returns what summary.json holds.

    Errors are in percent, losses are means in nats. `density` is the one asked for, `parameters` counts those of the
    dense network, biases included. `train_seconds` is the time of all training steps and topology updates, without
    validation, test and checkpoints; `topology_seconds` the part of it spent in `updater.update()`; `data_wait_share`
    the part of the steps' time, 0 to 1, in which they waited for a batch; `seconds_per_step` the median over epochs of
    the mean step, updates left out. `flop_density_mean` is the mean over optimizer steps. `train_flops` are those of
    all steps, each counted by `flops.step_flops` with the topology and the window it had, over those of a whole dense
    run; None where the run began before they were counted. `allreduce_bytes` are those of the gradients that each
    process sends in a step, with the topology at the end, and what a dense network would send. `peak_rss_mb` is
    of the process.
    """
    settings, steps = session.settings, position.step
    position.note_memory()
    sent = gradient_bytes(session.model) if session.ranks.number > 1 else None
    per_step = median(row["seconds"] for row in metrics) / session.steps_per_epoch
    return {
        "recipe": settings.recipe.name,
        "model": settings.recipe.model,
        "method": settings.method,
        "storage": session.storage,
        "density": settings.density,
        "active_weights": session.active,
        "prunable_weights": session.prunable,
        "parameters": session.parameters,
        "flop_density_start": position.flop_density_start,
        "flop_density_end": session.flop_density,
        "flop_density_mean": position.flop_density_sum / steps,
        "train_flops": None if isnan(position.step_flops_sum) else position.step_flops_sum / session.total_steps,
        "seed": settings.seed,
        "epochs": position.epoch,
        "steps": steps,
        "updates": position.updates,
        "test_error": test.error,
        "test_loss": test.loss,
        "validation_error": position.validation_error,
        "validation_loss": position.validation_loss,
        "train_seconds": position.seconds_of_training,
        "topology_seconds": position.topology_seconds,
        "validation_seconds": position.validation_seconds,
        "data_wait_share": position.wait_seconds / position.train_seconds,
        "seconds_per_step": per_step,
        "peak_rss_mb": position.peak_rss_mb,
        "threads": torch.get_num_threads(),
        "processes": session.ranks.number,
        "allreduce_bytes": sent.sparse + sent.other if sent else 0,
        "allreduce_bytes_dense": sent.dense if sent else 0,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch": str(torch.__version__),
        "regrow": regrow.__version__,
        "settings": settings.stored(),
    }
