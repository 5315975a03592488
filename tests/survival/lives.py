"""Lives of a run: each is a process, forked from one that has imported everything, and ends or is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from regrow.lab import RunError, Settings, train

from .moments import Killer, LineCounter, Lines, Moment

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


def live(settings: Settings, out: Path, data: Path, moment: Moment | None = None, after: float | None = None) -> int:
    """Trains, or goes on, in a process of its own; its exit code, which is -9 where it was killed.

    Args:
        moment: when it kills itself. after: seconds until it is killed from outside.
    """
    process = _start(_train, settings, out, data, moment)
    if after is not None:
        process.join(after)
        process.kill()
    process.join()
    code = process.exitcode
    assert code is not None
    return code


def live_together(settings: Settings, out: Path, data: Path, moment: Moment | None = None) -> list[tuple[int, str]]:
    """Trains, or goes on, in two processes; of each its exit code, and the error that it stopped with.

    Args:
        moment: when the second one kills itself.
    """
    said = [out.with_suffix(f".rank-{rank}.txt") for rank in range(2)]
    for file in said:
        file.unlink(missing_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    args = [(rank, port, said[rank], settings, out, data, moment if rank else None) for rank in range(2)]
    processes = [_start(_train_together, *of_rank) for of_rank in args]
    for process in processes:
        process.join(120)
        process.kill()  # only what hangs is still there
        process.join()
    return [(p.exitcode, file.read_text() if file.exists() else "") for p, file in zip(processes, said, strict=True)]


def _train_together(rank: int, port: int, said: Path, *run: Any) -> None:
    """As torchrun starts a process."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    place |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "survival"}
    os.environ.update(place)
    try:
        _train(*run, devices=2)
    except RunError as error:
        said.write_text(str(error))
        os._exit(1)  # at once, as there is nobody left to say goodbye to


def count_lines(settings: Settings, out: Path, data: Path) -> Lines:
    """The lines of each phase in an undisturbed run, which `out` holds afterwards."""
    file = out.with_suffix(".lines.json")
    if not file.exists():
        _start(_count, settings, out, data, file).join()
    return json.loads(file.read_text())


def _start(target: Callable[..., None], *args: Any) -> Any:
    # the server of Python 3.11 looks for what it imports first where PYTHONPATH says, and nowhere else
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        forkserver.ensure_running()
    process = CONTEXT.Process(target=target, args=args)
    process.start()
    return process


def _train(settings: Settings, out: Path, data: Path, moment: Moment | None, devices: int = 1) -> None:
    torch.set_num_threads(1)
    if moment:
        sys.settrace(Killer(moment))
    train(settings, out=out, data_dir=data, resume=True, threads=1, devices=devices)


def _count(settings: Settings, out: Path, data: Path, file: Path) -> None:
    torch.set_num_threads(1)
    counter = LineCounter()
    sys.settrace(counter)
    train(settings, out=out, data_dir=data, resume=True, threads=1)
    sys.settrace(None)
    file.write_text(json.dumps(counter.lines))
