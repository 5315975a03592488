"""The training loop: Lightning Fabric for the device, plain torch for the rest.

Every epoch: train, validate, update the topology (not after the last epoch; after validation, for a freshly pruned
network validates badly), save. The test set is looked at once, at the very end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .config import learning_rate
from .data import data_root
from .errors import Interrupted, RunError
from .folder import METRICS, TOPOLOGY, RunFolder, open_folder
from .interrupt import StopSignal
from .position import Position
from .progress import Reporter
from .randomness import generator
from .session import Session, error_percent, make_session
from .settings import Settings
from .summarise import summarise

__all__ = ["train"]

REPORT_EVERY = 16
"""Batches between two calls of the reporter: often enough for a progress bar, too seldom to cost anything."""


def train(
    settings: Settings,
    *,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    resume: bool = False,
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Trains one run and returns its summary, which is also in summary.json of the run's folder.

    Args:
        settings: from `make_settings`.
        out: the run's folder, default `settings.folder()`. data_dir: see `data_root`.
        resume: go on from the folder's checkpoint, to the same bits as a run that never stopped.
        threads: of torch; default the recipe's, else torch's own choice; when resuming that of the run.
        reporter: is told how the run goes.

    Raises:
        UsageError: the folder exists already, or holds a run with other settings.
        Interrupted: SIGINT or SIGTERM; the run is saved.

    Example:
        >>> train(make_settings("digits-mlp", density=0.1))["test_error"]
        2.8
    """
    reporter = reporter or Reporter()
    folder, stored = open_folder(Path(out or settings.folder()), settings, resume, threads)
    if stored and "test_error" in stored:
        reporter.note(f"{folder.path} is finished already")
        return stored
    with _threads(stored["threads"] if stored else threads or settings.recipe.threads):
        session = make_session(settings, data_root(data_dir))
        position = _restore(session, folder, stored)
        with StopSignal() as stop, reporter:
            _run_epochs(session, folder, position, stop, reporter)
            return _finish(session, folder, position)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _restore(session: Session, folder: RunFolder, checkpoint: dict[str, Any] | None) -> Position:
    """Where the run goes on. A new run is saved at once, so that its folder says whose it is."""
    folder.cut_back(checkpoint)
    if checkpoint:
        session.load_state_dict(checkpoint)
        return Position(**checkpoint["position"])
    position = Position(flop_density_start=session.flop_density)
    _save(session, folder, position)
    return position


def _save(session: Session, folder: RunFolder, position: Position) -> None:
    position.note_memory()
    settings, threads = session.settings.as_dict(), torch.get_num_threads()
    folder.save({"settings": settings, "threads": threads, "position": position.as_dict(), **session.state_dict()})


def _run_epochs(session: Session, folder: RunFolder, position: Position, stop: StopSignal, reporter: Reporter) -> None:
    epochs = session.settings.recipe.epochs
    reporter.start(session.settings, position, session.steps_per_epoch)
    while position.epoch < epochs:
        _train_epoch(session, position, stop, reporter)
        if position.batch == session.steps_per_epoch and not stop.requested:
            reporter.epoch(_end_epoch(session, folder, position))
        _save(session, folder, position)
        if stop.requested:
            raise Interrupted(f"stopped at step {position.step} of {session.total_steps}; saved in {folder.path}")


def _train_epoch(session: Session, position: Position, stop: StopSignal, reporter: Reporter) -> None:
    """Trains to the end of the epoch, or to the end of the step in which a signal arrives."""
    size, flop_density = session.settings.recipe.batch_size, session.flop_density
    order = _order(session, position.epoch)
    loss_sum = torch.tensor(position.loss_sum, device=session.fabric.device)
    began = time.perf_counter()
    first = position.batch
    if session.updater and first == 0:
        session.updater.expect_update(session.steps_per_epoch)
    for batch in range(first, session.steps_per_epoch):
        index = order[batch * size : (batch + 1) * size]
        _set_learning_rate(session, position.step)
        loss_sum.add_(session.step(index), alpha=len(index))
        position.step += 1
        position.batch = batch + 1
        if batch % REPORT_EVERY == 0:
            reporter.batch(position)
        if stop.requested:
            break
    position.loss_sum = loss_sum.item()
    position.epoch_seconds += time.perf_counter() - began
    position.flop_density_sum += flop_density * (position.batch - first)


def _order(session: Session, epoch: int) -> torch.Tensor:
    shuffle = generator(session.settings.seed, "shuffle", epoch)
    return torch.randperm(len(session.data.train.y), generator=shuffle).to(session.fabric.device)


def _set_learning_rate(session: Session, step: int) -> None:
    lr = learning_rate(session.settings.recipe, step, session.total_steps)
    for group in session.optimizer.param_groups:
        group["lr"] = lr


def _end_epoch(session: Session, folder: RunFolder, position: Position) -> dict[str, Any]:
    """Validates, updates the topology, writes the lines; the epoch's line of metrics.jsonl."""
    loss = position.loss_sum / len(session.data.train.y)
    if not math.isfinite(loss):
        lr = session.settings.recipe.lr
        raise RunError(f"the loss is {loss} in epoch {position.epoch + 1}; train with less than lr={lr} (--set lr=…)")
    position.validation_error = error_percent(session, session.data.validation)
    row = {
        "epoch": position.epoch + 1,
        "step": position.step,
        "loss": loss,
        "validation_error": position.validation_error,
        "density": session.active / session.prunable,
        "flop_density": session.flop_density,
        "lr": session.optimizer.param_groups[0]["lr"],
        "seconds": position.epoch_seconds,
    }
    row |= _update_topology(session, folder, position)
    folder.append(METRICS, [row])
    position.next_epoch()
    return row


def _update_topology(session: Session, folder: RunFolder, position: Position) -> dict[str, Any]:
    """Updates unless this was the last epoch; prune rate and seconds of the update."""
    if session.updater is None or position.epoch + 1 == session.settings.recipe.epochs:
        return {"prune_rate": None, "topology_seconds": 0.0}
    before = len(session.updater.history)
    began = time.perf_counter()
    session.updater.update()
    seconds = time.perf_counter() - began
    rows = session.updater.history[before:]
    folder.append(TOPOLOGY, rows)
    position.topology_seconds += seconds
    position.updates += bool(rows)
    return {"prune_rate": rows[0]["prune_rate"] if rows else None, "topology_seconds": seconds}


def _finish(session: Session, folder: RunFolder, position: Position) -> dict[str, Any]:
    """Looks at the test set, once, and writes the summary."""
    test_error = error_percent(session, session.data.test)
    summary = summarise(session, position, folder.rows(METRICS), test_error)
    folder.finish(summary)
    return summary
