"""Measure a whole epoch as a user trains it, sparse against dense: the logic of `regrow bench run`.

The sparse network has the topology of a network that has been trained. Its epoch is measured whole: data, steps,
dense-gradient window, topology update and validation, through the recipe's own session. Dense networks take their turns
between the parts of that epoch; theirs is the mean step times the steps, and the validation measured whole.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from regrow.lab.recipes.recipe import Recipe
from regrow.lab.recipes.settings import Settings, make_settings
from regrow.lab.training.session import Session, evaluate, make_session
from regrow.lab.training.topology_file import Topology

from .step import BF16, CHANNELS_LAST, against, default_kinds
from .timing import bench_place

__all__ = ["run"]

PARTS = 8
"""Into which the sparse epoch is cut."""


@dataclass
class Contestant:
    """A session, and the seconds that it has spent."""

    session: Session
    batches: Iterator[tuple[Tensor, Tensor | None]]
    steps: list[float] = field(default_factory=list)
    validation: float = 0.0

    def train(self, steps: int) -> None:
        """So many steps, timed one by one."""
        for _ in range(steps):
            began = time.perf_counter()
            index, moves = next(self.batches)
            self.session.step(index, moves)
            self.steps.append(time.perf_counter() - began)

    def validate(self) -> None:
        began = time.perf_counter()
        evaluate(self.session, self.session.data.validation)
        self.validation = time.perf_counter() - began


def _batches(session: Session) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yields the batches of epoch after epoch, in the order of the recipe."""
    train, settings = session.data.train, session.settings
    for epoch in itertools.count():
        yield from train.epoch_batches(settings.seed, epoch, settings.recipe.batch_size)


def _sparse(settings: Settings, root: Path, topology: Topology | None) -> Contestant:
    session = make_session(settings, root, topology.masks if topology else None)
    return Contestant(session, _batches(session))


def _dense(recipe: Recipe, kind: str, root: Path) -> Contestant:
    chosen = [f"channels_last={kind in CHANNELS_LAST}", f"precision={'bf16-mixed' if kind in BF16 else '32-true'}"]
    session = make_session(make_settings(recipe, method="dense", overrides=chosen), root)
    if kind == "compile":
        session.network = torch.compile(session.network)  # type: ignore[assignment]
    return Contestant(session, _batches(session))


def measure(
    settings: Settings, topology: Topology | None, root: Path, kinds: Sequence[str], dense_steps: int
) -> dict[str, Any]:
    """One row."""
    torch.compiler.reset()
    sparse = _sparse(settings, root, topology)
    dense = {kind: _dense(settings.recipe, kind, root) for kind in kinds}
    for contestant in (sparse, *dense.values()):
        contestant.train(3)
        contestant.steps.clear()
    flop_density = sparse.session.flop_density
    update = _epoch(sparse, dense, dense_steps)
    steps = sparse.session.steps_per_epoch
    epochs = {kind: mean(one.steps) * steps + one.validation for kind, one in dense.items()}
    epoch = sum(sparse.steps) + update + sparse.validation
    return {
        "model": settings.recipe.model,
        "method": settings.method,
        "density": sparse.session.active / sparse.session.prunable,
        "flop_density": flop_density,
        "flop_density_after_update": sparse.session.flop_density,
        "rule": rule(settings),
        "share": settings.recipe.option("redistribution", "momentum"),
        "flops_budget": settings.recipe.option("flops_budget"),
        "dense": list(settings.recipe.dense),
        "batch": settings.recipe.batch_size,
        "threads": torch.get_num_threads(),
        "sparse_epoch_s": epoch,
        "sparse_steps_s": sum(sparse.steps),
        "topology_update_s": update,
        "sparse_validation_s": sparse.validation,
        "dense_epoch_s": epochs,
        "dense_validation_s": {kind: one.validation for kind, one in dense.items()},
        "dense_steps_measured": {kind: len(one.steps) for kind, one in dense.items()},
        "steps_per_epoch": steps,
        **against(epochs, epoch),
        "topology": topology.about if topology else None,
    }


def rule(settings: Settings) -> str:
    """Returns how the topology changes, in a word."""
    if settings.method != "sparse-momentum":
        return settings.method
    budget = settings.recipe.option("flops_budget")
    return settings.recipe.option("redistribution", "momentum") if budget is None else f"budget {budget:g}"


def _epoch(sparse: Contestant, dense: dict[str, Contestant], dense_steps: int) -> float:
    """The sparse epoch in parts, with dense steps between them; the seconds of the topology update at its end."""
    session = sparse.session
    assert session.updater is not None
    session.updater.expect_update(session.steps_per_epoch)
    for part in range(PARTS):
        until = session.steps_per_epoch * (part + 1) // PARTS
        sparse.train(until - len(sparse.steps))
        for contestant in dense.values():
            contestant.train(dense_steps)
    for contestant in (sparse, *dense.values()):
        contestant.validate()
    began = time.perf_counter()
    session.updater.update()
    return time.perf_counter() - began


def run(
    runs: Sequence[tuple[Settings, Topology | None]],
    root: Path,
    threads: int | None = None,
    kinds: Sequence[str] | None = None,
    dense_steps: int = 3,
    starting: Callable[[Settings], None] = lambda settings: None,
    progress: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Measure an epoch of every run.

    Args:
        runs: settings of a recipe, and the topology to start from; None: the initial one.
        root: folder of the data sets.
        threads: torch's threads meanwhile; default as they are.
        kinds: dense contestants, at least one of FP32; None: `default_kinds`.
        dense_steps: steps of each dense contestant after each eighth of the sparse epoch.
        starting: called with each thing before it is measured.
        progress: called with each row when it is measured.

    Returns:
        Rows as `regrow bench run --json` writes them: model, density, flop_density, share, the seconds of the sparse
        epoch and its parts and of the dense epochs by kind, ratios (above 1: sparse is faster), and where it was
        measured.
    """
    rows, kinds = [], default_kinds() if kinds is None else kinds
    with bench_place(threads) as where:
        for settings, topology in runs:
            starting(settings)
            rows.append({**measure(settings, topology, root, kinds, dense_steps), **where})
            progress(rows[-1])
    return rows
