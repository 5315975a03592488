"""Lives of a run: each is a process, forked from one that has imported everything, and ends or is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from regrow.recipes import Settings, train

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


def _train(settings: Settings, out: Path, data: Path, moment: Moment | None) -> None:
    torch.set_num_threads(1)
    if moment:
        sys.settrace(Killer(moment))
    train(settings, out=out, data_dir=data, resume=True, threads=1)


def _count(settings: Settings, out: Path, data: Path, file: Path) -> None:
    torch.set_num_threads(1)
    counter = LineCounter()
    sys.settrace(counter)
    train(settings, out=out, data_dir=data, resume=True, threads=1)
    sys.settrace(None)
    file.write_text(json.dumps(counter.lines))
