"""Executors: where the runs of a grid take place, processes of this machine or a Ray cluster."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regrow.lab.errors import RunError, unknown

from .cell_process import CellProcess, Place

__all__ = ["EXECUTORS", "Executor", "executor"]

EXECUTORS = ("processes", "ray")


@dataclass(frozen=True)
class Executor:
    """The interface that `grid.run_grid` needs: `place` makes a place for one run, `jobs` of them side by side."""

    place: Callable[[], Place]
    jobs: int


@contextmanager
def executor(name: str, jobs: int | None, threads: int) -> Iterator[Executor]:
    """An executor by name, for as long as the block lasts.

    Args:
        name: a name in EXECUTORS.
        jobs: runs at a time; None: two processes, or as many as the cluster can hold.
        threads: threads of each run.

    Raises:
        UsageError: there is no such executor. RunError: Ray is not here, or its cluster cannot be reached.

    Example:
        >>> with executor("processes", None, threads=1) as chosen:
        ...     chosen.jobs
        2
    """
    if name not in EXECUTORS:
        raise unknown("executor", name, EXECUTORS)
    if name == "processes":
        yield Executor(CellProcess, jobs or 2)
        return
    with _cluster() as ray:
        has = ray.cluster_resources()
        needs = {"num_cpus": threads, "num_gpus": 1 if has.get("GPU") else 0}
        room = min(has.get("CPU", 0) // threads, has.get("GPU") or has.get("CPU", 0))
        yield Executor(lambda: _RayPlace(ray, needs), jobs or max(int(room), 1))


@contextmanager
def _cluster() -> Iterator[Any]:
    """The module ray, connected: to RAY_ADDRESS, a cluster of this machine, or one that is started for the block."""
    try:
        import ray
    except ImportError as error:
        raise RunError(f"--executor ray needs Ray ({error}); pip install 'regrow[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except ConnectionError as error:
        address = os.environ.get("RAY_ADDRESS")
        raise RunError(f"there is no Ray cluster at {address} ({error}); start it, or unset RAY_ADDRESS") from error
    try:
        yield ray
    finally:
        ray.shutdown()


class _Remote(CellProcess):
    """A process on the machine where Ray has put this actor, in the folder and with the settings of the grid."""

    def __init__(self, folder: str, environment: dict[str, str]):
        super().__init__()
        os.chdir(folder)
        os.environ.update(environment)

    def run(self, command: Sequence[str], log: Path, finished: Path) -> int | None:
        return super().run([sys.executable, *command[1:]], log, finished)


class _RayPlace:
    """A process somewhere in the cluster, see `Place`."""

    def __init__(self, ray: Any, needs: dict[str, int]):
        self._ray = ray
        ours = {k: v for k, v in os.environ.items() if k == "PYTHONPATH" or k.startswith("REGROW_")}
        remote = ray.remote(_Remote).options(max_concurrency=2, **needs)  # run() and stop() at a time
        self._actor = remote.remote(os.getcwd(), ours)

    def run(self, command: Sequence[str], log: Path, finished: Path) -> int | None:
        try:
            return self._ray.get(self._actor.run.remote(command, log, finished))
        except self._ray.exceptions.RayError as error:
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, "a") as file:
                file.write(f"Ray could not run it to its end: {' '.join(str(error).split())[:200]}\n")
            return 1
        finally:
            self._ray.kill(self._actor)

    def stop(self) -> None:
        self._actor.stop.remote()
