"""The training loop: Lightning Fabric for the device, plain torch for the rest.

Every epoch: train, validate, update the topology (not after the last step; after validation, as a freshly pruned
network validates badly), save. The test set is looked at once, at the very end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regrow
from regrow.lab.data.datasets import data_root
from regrow.lab.data.reading import Reading
from regrow.lab.errors import Interrupted, UsageError
from regrow.lab.fabric import Logger
from regrow.lab.recipes.recipe import learning_rate
from regrow.lab.recipes.settings import Settings

from .cost import StepCost, Waiting
from .description import weight_histograms
from .determinism import deterministic_algorithms, threads_of_torch
from .failures import named_causes, refuse_lost_loss
from .folder import METRICS, TOPOLOGY, TOPOLOGY_FILE, WEIGHTS, Onlooker, RunFolder, open_folder
from .interrupt import StopSignal
from .loggers import log_epoch, log_update, run_loggers
from .loss import LossSum
from .lottery import find_ticket
from .position import Position
from .progress import Reporter
from .ranks import Ranks, launch
from .saving import begin, restore, save
from .session import Session, evaluate, make_session
from .summarise import summarise
from .ticket import REWIND, Ticket
from .topology_file import save_topology

__all__ = ["train"]

REPORT_EVERY = 16
"""Batches between two calls of the reporter: often enough for a progress bar, too seldom to cost anything."""
HISTOGRAMS = 20
"""About how many times at most a run writes how its weights are spread."""


def train(
    settings: Settings,
    *,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    resume: bool = False,
    threads: int | None = None,
    max_seconds: float | None = None,
    topology_every: int | None = None,
    devices: int = 1,
    nodes: int = 1,
    strategy: str = "auto",
    workers: int | None = None,
    skip_corrupt: bool = False,
    deterministic: bool = False,
    logger: str | None = None,
    reporter: Reporter | None = None,
    ticket: Ticket | None = None,
) -> dict[str, Any]:
    """Trains one run and returns its summary, which is also in summary.json of the run's folder.

    With more than one process, each takes its part of every batch. If torchrun has not started the program, it is
    started again for each of the other processes.

    Args:
        settings: the result of `make_settings`.
        out: the run's folder, default `settings.folder()`.
        data_dir: see `data_root`.
        resume: continue from the folder's checkpoint, to the same bits as a run that never stopped.
        threads: torch threads; default the recipe's, else torch's own choice; when resuming that of the run.
        max_seconds: stop after the epoch in which this many seconds of training and validation are over, including
            those before a resume; schedules stay those of all epochs. Not for lottery tickets.
        topology_every: also write the topology every so many epochs, as topology-epochN.npz.
        devices: number of processes on this machine, see `launch`; the same number when resuming.
        nodes: number of machines, see `launch`.
        strategy: strategy of Lightning Fabric, see `launch`.
        workers: number of processes that read a data set of files, see `Reading`.
        skip_corrupt: skip files that cannot be decoded, see `Reading`.
        deterministic: use only torch's deterministic algorithms (docs/determinism.md); the same when resuming.
        logger: "tensorboard", "csv" or "wandb", or several separated by commas; logs into the folder `logs` of the run.
            A resumed run starts a new log.
        reporter: receives the progress of the run.
        ticket: a round of lottery tickets; without one, the method "lottery" trains all its rounds (`find_ticket`).

    Raises:
        UsageError: the folder exists already, or holds a run with other settings; or a value is not supported.
        Interrupted: SIGINT or SIGTERM; the run is saved.
        RunError: the loss is not finite, a disk is full, data or a checkpoint cannot be read, or a checkpoint belongs
            to another model; the message names it, and the last good checkpoint stays.

    Example:
        >>> train(make_settings("digits-mlp", density=0.1))["test_error"]
        2.8
    """
    if max_seconds is not None and not max_seconds >= 0:
        raise UsageError(f"max_seconds={max_seconds} must be at least 0")
    if settings.method == "lottery" and ticket is None:
        if devices * nodes > 1:
            raise UsageError("lottery tickets train in one process; leave out --devices and --nodes")
        if max_seconds is not None:
            raise UsageError(
                f"each round of a lottery ticket is a whole training, which --max-seconds {max_seconds:g} would cut "
                "short; leave it out, and set --epochs"
            )
        how = {"data_dir": data_dir, "threads": threads, "topology_every": topology_every}
        how |= {"workers": workers, "skip_corrupt": skip_corrupt, "deterministic": deterministic}
        how["logger"] = logger
        return find_ticket(train, settings, Path(out or settings.folder()), resume=resume, reporter=reporter, **how)
    fabric = launch(settings.recipe, devices, nodes, strategy)
    ranks, path = Ranks(fabric), Path(out or settings.folder())
    reporter = (reporter if ranks.first else None) or Reporter()
    folder, stored = ranks.agree(
        lambda: open_folder(path, settings, resume, threads, reporter.note, ranks.number, deterministic)
    )
    folder = folder if ranks.first else Onlooker(path)
    if stored and "test_error" in stored:
        reporter.note(f"{folder.path} is finished already")
        return stored
    reading = Reading(workers, skip_corrupt, reporter.note if ranks.first else print)
    if stored:
        threads, deterministic = stored["threads"], stored.get("deterministic", False)
    threads = threads or settings.recipe.threads
    step = stored["position"]["step"] if stored else 0
    with (
        named_causes(folder, ranks),
        threads_of_torch(threads),
        deterministic_algorithms(deterministic),
        run_loggers(logger if ranks.first else None, path, step) as loggers,
    ):
        session = make_session(settings, data_root(data_dir), ticket.masks if ticket else None, fabric, reading)
        position = restore(session, folder, stored) if stored else begin(session, folder, ticket)
        run = _Run(session, folder, position, reporter, loggers, max_seconds, topology_every)
        with StopSignal() as stop, reporter:
            run.all_epochs(stop)
            return run.finish()


@dataclass
class _Run:
    """A running training: its session, its folder and its position."""

    session: Session
    folder: RunFolder
    position: Position
    reporter: Reporter
    loggers: Sequence[Logger]
    max_seconds: float | None
    topology_every: int | None

    def all_epochs(self, stop: StopSignal) -> None:
        session, position = self.session, self.position
        self.reporter.start(session.settings, position, session.steps_per_epoch)
        while not position.ended:
            self._train_epoch(stop)
            if position.batch == session.steps_per_epoch and not session.ranks.any(stop.requested):
                self._end_epoch()
            save(session, self.folder, position)
            if session.ranks.any(stop.requested):
                where = f"step {position.step} of {session.total_steps}"
                raise Interrupted(f"stopped at {where}; saved in {self.folder.path}")

    def _train_epoch(self, stop: StopSignal) -> None:
        """Trains to the end of the epoch, or to the end of the step in which a signal arrives."""
        session, position = self.session, self.position
        if session.updater and position.step == 0:
            session.updater.expect_update(session.update_every)
        loss = LossSum(position.loss_sum, position.step, session.fabric.device)
        cost = StepCost(session)
        began, updating = time.perf_counter(), position.topology_seconds
        train, seed, size = session.data.train, session.settings.seed, session.settings.recipe.batch_size
        of_all = train.epoch_batches(seed, position.epoch, size, first=position.batch)
        batches = Waiting(train.load(session.ranks.part(*drawn) for drawn in of_all))
        for x, y in batches:
            drawn = min(size, len(train) - position.batch * size)  # a file left out counts as the mean of its batch
            _set_learning_rate(session, position.step)
            position.flop_density_sum += cost.flop_density
            position.step_flops_sum += cost.step_flops()
            loss.add(session.learn(x, y, session.ranks.share(drawn)), drawn)
            position.step += 1
            position.batch += 1
            if position.batch < session.steps_per_epoch and self._update_is_due():
                refuse_lost_loss(loss, session, position)
                self._update_topology(session.updater)
                cost.topology_changed()
            if position.batch % REPORT_EVERY == 1:
                refuse_lost_loss(loss, session, position)
                self.reporter.batch(position)
            if session.ranks.any(stop.requested):
                break
        refuse_lost_loss(loss, session, position)
        position.loss_sum = session.ranks.mean(loss.total)
        position.epoch_wait_seconds += batches.seconds
        position.epoch_seconds += time.perf_counter() - began - (position.topology_seconds - updating)

    def _end_epoch(self) -> None:
        """Validates, updates the topology, writes the epoch's lines."""
        session, position = self.session, self.position
        began = time.perf_counter()
        position.validation_error, position.validation_loss = evaluate(session, session.data.validation)
        position.validation_seconds += time.perf_counter() - began
        position.ended = self._is_over()
        row = {
            "epoch": position.epoch + 1,
            "step": position.step,
            "loss": position.loss_sum / len(session.data.train),
            "validation_error": position.validation_error,
            "validation_loss": position.validation_loss,
            "density": session.active / session.prunable,
            "flop_density": session.flop_density,
            "lr": session.optimizer.param_groups[0]["lr"],
        }
        if position.ended or position.epoch % max(1, session.settings.recipe.epochs // HISTOGRAMS) == 0:
            self.folder.append(WEIGHTS, weight_histograms(session, position.epoch + 1))
        if self._update_is_due() and not position.ended:
            self._update_topology(session.updater)
        row |= {
            "prune_rate": position.prune_rate,
            "seconds": position.epoch_seconds,
            "topology_seconds": position.epoch_topology_seconds,
            "data_wait_share": position.epoch_wait_seconds / position.epoch_seconds,
            "train_seconds": position.seconds_of_training,
            "validation_seconds": position.validation_seconds,
        }
        self.folder.append(METRICS, [row])
        log_epoch(self.loggers, row, session.model)
        position.next_epoch()
        if session.settings.method == "lottery" and position.epoch == session.settings.recipe.option(
            "rewind_epochs", 0
        ):
            self.folder.keep(REWIND, session.model.state_dict())
        if self.topology_every and position.epoch % self.topology_every == 0:
            self._save_topology(f"topology-epoch{position.epoch}.npz")
        self.reporter.epoch(row)

    def _is_over(self) -> bool:
        """Returns whether the epoch that ends now is the last one."""
        if self.position.step >= self.session.total_steps:
            return True
        spent = self.position.seconds_of_training + self.position.validation_seconds
        return self.max_seconds is not None and self.session.fabric.broadcast(spent >= self.max_seconds)

    def _update_is_due(self) -> bool:
        session, step = self.session, self.position.step
        return session.updater is not None and step % session.update_every == 0 and step < session.total_steps

    def _update_topology(self, updater: Any) -> None:
        position = self.position
        began = time.perf_counter()
        rows = updater.update()
        updater.expect_update(self.session.update_every)
        seconds = time.perf_counter() - began
        self.folder.append(TOPOLOGY, rows)
        log_update(self.loggers, rows)
        position.epoch_topology_seconds += seconds
        position.topology_seconds += seconds
        if rows:
            position.updates += 1
            position.prune_rate = rows[0]["prune_rate"]

    def _save_topology(self, name: str) -> None:
        """Writes the active sets, with what made them, where there are any."""
        session, settings = self.session, self.session.settings
        if session.updater and session.ranks.first:
            option = settings.recipe.option
            about = {
                "recipe": settings.recipe.name,
                "model": settings.recipe.model,
                "method": settings.method,
                "density": settings.density,
                "distribution": option("distribution", "uniform"),
                "flop_density": session.flop_density,
                "share": option("redistribution", "momentum"),
                "flops_budget": option("flops_budget"),
                "max_density": option("max_density"),
                "seed": settings.seed,
                "epochs": self.position.epoch,
                "step": self.position.step,
                "active": {name: weight.active for name, weight in regrow.sparse_weights(session.model).items()},
            }
            save_topology(self.folder.path / name, session.model, about)

    def finish(self) -> dict[str, Any]:
        """Evaluates the test set, once, and writes topology and summary."""
        test = evaluate(self.session, self.session.data.test)
        summary = self.session.ranks.agree(
            lambda: summarise(self.session, self.position, self.folder.rows(METRICS), test)
        )
        self._save_topology(TOPOLOGY_FILE)
        wanted = round(summary["density"] * summary["prunable_weights"])
        if summary["active_weights"] != wanted:
            self.reporter.note(
                f"{summary['active_weights']} weights are active, not {wanted}: the training ended before an update "
                "that would have reached the requested density; update more often (--update-every), or train longer"
            )
        self.folder.finish(summary)
        return summary


def _set_learning_rate(session: Session, step: int) -> None:
    lr = learning_rate(session.settings.recipe, step, session.total_steps)
    for group in session.optimizer.param_groups:
        group["lr"] = lr
