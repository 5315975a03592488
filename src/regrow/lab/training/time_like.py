"""As many epochs as fit into the time of a dense training, from a few measured steps of both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from statistics import median
from typing import Any

import regrow
from regrow.lab.data.datasets import data_root
from regrow.lab.errors import UsageError
from regrow.lab.recipes.catalog import get_recipe
from regrow.lab.recipes.methods import METHODS
from regrow.lab.recipes.options import updaters
from regrow.lab.recipes.recipe import learning_rate
from regrow.lab.recipes.settings import Settings, rehearse

from .determinism import threads_of_torch
from .folder import RunFolder
from .session import Session, make_session

__all__ = ["EpochSeconds", "fit_epochs", "measure_epochs", "with_stored_epochs"]

_ROUNDS, _STEPS = 5, 4
"""Rounds in which dense and sparse steps are measured in turn, and the steps of each in a round."""
_WARM = 3


@dataclass(frozen=True)
class EpochSeconds:
    """Seconds of all steps and topology updates of an epoch, validation left out."""

    dense: float
    sparse: float


def fit_epochs(
    settings: Settings,
    *,
    data_dir: str | Path | None = None,
    threads: int | None = None,
    say: Callable[[str], None] = print,
    measure: Callable[..., EpochSeconds] | None = None,
) -> Settings:
    """The settings with as many epochs as fit into the time of the recipe's dense training, at least one.

    Args:
        settings: of a sparse run whose density does not fall as it trains; its epochs do not count.
        data_dir: see `data_root`.
        threads: torch threads; default the recipe's, else torch's own choice.
        say: receives a line with what was measured and chosen.
        measure: in place of `measure_epochs`.

    Raises:
        UsageError: the method is dense, or its steps take other times at the end than at the start.
    """
    kind = updaters().get(settings.method)
    if METHODS[settings.method].attach is None or settings.method == "lottery" or (kind and kind.starts_dense):
        raise UsageError(
            f"--time-like dense measures a few steps, but those of {settings.method} do not stand for its whole "
            "training; set --epochs, or choose a method that is sparse from the first step"
        )
    epochs = get_recipe(settings.recipe.name).epochs
    with threads_of_torch(threads or settings.recipe.threads):
        seconds = (measure or measure_epochs)(settings, data_dir)
    chosen = max(1, int(epochs * seconds.dense / seconds.sparse))
    say(
        f"an epoch takes {seconds.dense:.3g} s dense and {seconds.sparse:.3g} s with {settings.method}: "
        f"{chosen} epochs fit into the time of {epochs} dense ones"
    )
    fitted = replace(settings, recipe=replace(settings.recipe, epochs=chosen))
    rehearse(fitted)
    return fitted


def with_stored_epochs(settings: Settings, path: Path, say: Callable[[str], None] = print) -> Settings | None:
    """The settings with the epochs of the run in a folder, which were chosen before; None where there is no run."""
    folder = RunFolder(path)
    stored = folder.summary() or folder.recover(say)
    if not stored:
        return None
    return replace(settings, recipe=replace(settings.recipe, epochs=stored["settings"]["epochs"]))


def measure_epochs(settings: Settings, data_dir: str | Path | None = None) -> EpochSeconds:
    """Measures steps of the dense and of the sparse training in turn, and an update with the steps before it.

    Example:
        >>> seconds = measure_epochs(make_settings("digits-mlp", density=0.1))
        >>> seconds.dense > 0 and seconds.sparse > 0
        True
    """
    root = data_root(data_dir)
    recipe = replace(settings.recipe, options=tuple(o for o in settings.recipe.options if o[0] == "width"))
    of_dense = replace(settings, recipe=recipe, method="dense", density=1.0, storage="auto")
    dense, sparse = _Measured(make_session(of_dense, root)), _Measured(make_session(settings, root))
    for arm in (dense, sparse):
        arm.steps(_WARM)
        arm.times.clear()
    for _ in range(_ROUNDS):
        dense.steps(_STEPS)
        sparse.steps(_STEPS)
    return EpochSeconds(dense.epoch(), sparse.epoch())


class _Measured:
    """A session, and the seconds of its steps, by whether they collect gradients of inactive weights."""

    def __init__(self, session: Session):
        self.session = session
        self.times: dict[bool, list[float]] = {}
        recipe, train = session.settings.recipe, session.data.train
        epochs = (train.epoch_batches(session.settings.seed, epoch, recipe.batch_size) for epoch in repeat(0))
        self._drawn = chain.from_iterable(epochs)
        for group in session.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, 0, session.total_steps)
        if session.updater:
            session.updater.expect_update(session.total_steps)

    @property
    def _collecting(self) -> bool:
        weights = regrow.sparse_weights(self.session.model).values() if self.session.updater else ()
        return any(weight.collecting for weight in weights)

    def steps(self, number: int) -> None:
        for _ in range(number):
            collecting = self._collecting
            began = time.perf_counter()
            self.session.step(*next(self._drawn))
            self.times.setdefault(collecting, []).append(time.perf_counter() - began)

    def epoch(self) -> float:
        """Seconds of the steps and updates of an epoch."""
        session = self.session
        steps = session.steps_per_epoch
        if not session.updater:
            return steps * median(self.times[False])
        every = session.update_every
        window, update = self._update(every)
        usual = median(self.times.get(False) or self.times[True])
        collecting = median(self.times.get(True) or self.times[False])
        return steps * (usual * (every - window) + collecting * window + update) / every

    def _update(self, every: int) -> tuple[int, float]:
        """Number of steps before an update that collect, and the seconds of the update."""
        updater: Any = self.session.updater
        collectors = getattr(updater, "_collectors", {}).values()
        windows = [every if one.window is None else one.window for one in collectors if one.rule is not None]
        window = min(every, max(windows, default=0))
        updater.expect_update(_STEPS)
        self.steps(_STEPS)
        began = time.perf_counter()
        updater.update()
        return window, time.perf_counter() - began
