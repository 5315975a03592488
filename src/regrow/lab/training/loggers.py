"""Loggers of Lightning Fabric for a run: TensorBoard, CSV and Weights & Biases. Logs are copies; the run reads none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import regrow
from regrow.lab.errors import RunError, unknown
from regrow.lab.fabric import CSVLogger, Logger, TensorBoardLogger

__all__ = ["LOGGERS", "WandbLogger", "log_epoch", "log_update", "run_loggers"]

FOLDER = "logs"


class WandbLogger(Logger):
    """Weights & Biases, for Fabric, which has no logger of its own for it."""

    def __init__(self, root_dir: Path, version: str):
        self._run = import_module("wandb").init(dir=str(root_dir), name=f"{root_dir.name}-{version}")

    @property
    def name(self) -> str:
        return self._run.name

    @property
    def version(self) -> str:
        return self._run.id

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._run.log(metrics, step=step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._run.config.update(params)

    def log_histogram(self, name: str, values: Tensor, step: int) -> None:
        """Logs how values are distributed."""
        self._run.log({name: import_module("wandb").Histogram(values.numpy())}, step=step)

    def finalize(self, status: str) -> None:
        self._run.finish()


LOGGERS: dict[str, Callable[[Path, str], Logger]] = {
    "tensorboard": lambda folder, version: TensorBoardLogger(folder, FOLDER, version),
    "csv": lambda folder, version: CSVLogger(folder, FOLDER, version),
    "wandb": WandbLogger,
}


@contextmanager
def run_loggers(names: str | None, folder: Path, step: int) -> Iterator[list[Logger]]:
    """The loggers of a run, which write into `folder`/logs, open while it trains.

    Those that begin later than at step 0 say so in their names.

    Args:
        names: names in LOGGERS, separated by commas; None: no loggers.

    Raises:
        UsageError: there is no such logger. RunError: its library is not installed.
    """
    chosen = [] if names is None else [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in LOGGERS:
            raise unknown("logger", name, LOGGERS)
    loggers = [_make(name, folder, f"{name}-from-step-{step}" if step else name) for name in chosen]
    try:
        yield loggers
    finally:
        for logger in loggers:
            logger.finalize("finished")


def _make(name: str, folder: Path, version: str) -> Logger:
    try:
        return LOGGERS[name](folder, version)
    except ModuleNotFoundError as error:
        raise RunError(f"--logger {name} needs {name}, which is not installed; pip install {name}") from error


def log_epoch(loggers: Sequence[Logger], row: Mapping[str, Any], model: nn.Module) -> None:
    """Logs the end of an epoch: its numbers, and of each layer the density and how its active weights are distributed.

    Args:
        row: the epoch's line of metrics.jsonl.
    """
    step = row["step"]
    weights = regrow.sparse_weights(model) if loggers else {}
    numbers = {name: value for name, value in row.items() if name != "step" and value is not None}
    numbers |= {f"density/{name}": weight.density for name, weight in weights.items()}
    for logger in loggers:
        logger.log_metrics(numbers, step)
        for name, weight in weights.items():
            _log_histogram(logger, f"active weights/{name}", weight.values.cpu(), step)
        logger.save()


def log_update(loggers: Sequence[Logger], rows: Iterable[Mapping[str, Any]]) -> None:
    """Logs a topology update: of each layer importance, and how many weights were pruned and grown.

    Args:
        rows: new rows of the updater's history.
    """
    for row in rows:
        numbers = {f"{what}/{row['name']}": row[what] for what in ("importance", "pruned", "grown")}
        for logger in loggers:
            logger.log_metrics(numbers, row["step"])


def _log_histogram(logger: Logger, name: str, values: Tensor, step: int) -> None:
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_histogram(name, values, step)
    elif isinstance(logger, WandbLogger):
        logger.log_histogram(name, values, step)
