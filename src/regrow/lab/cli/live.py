"""The live report: a page that is rewritten whenever its runs have written something, until they are finished."""

from __future__ import annotations

import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regrow.lab.errors import UsageError
from regrow.lab.training.interrupt import StopSignal

from .reporting import make_report
from .tables import console

__all__ = ["live_report", "report_beside"]

LOOK_EVERY = 0.5
"""Seconds between two looks at the clock and at signals."""
KINDS = ("[!.]*.json", "[!.]*.jsonl", "[!.]*.npz")
"""Files that are read; names with a dot in front are half-written."""


def live_report(paths: Sequence[Path], out: Path, every: int, show: bool) -> None:
    """Writes the page, and rewrites it at most every `every` seconds during the runs.

    The page reloads itself as often. At the end, when all runs are finished or at Ctrl-C or SIGTERM, it is written once
    more without reloading.

    Args:
        paths: as for `make_report`; a folder may still be empty.
        show: open the page in a browser.

    Raises:
        UsageError: a path does not exist, or holds something else.
    """
    if missing := [str(path) for path in paths if not path.exists()]:
        raise UsageError(f"there is no {', '.join(missing)} to follow; name a run folder from regrow train")
    say = console()
    say.print(f"{out} follows the runs; Ctrl-C ends it", markup=False, soft_wrap=True)
    seen: list[Any] = []
    finished, shown = False, not show
    with StopSignal() as stop:
        while not finished and not stop.requested:
            if (state := _state(paths)) != seen:
                seen, finished = state, make_report(paths, out, refresh=every)
                if not shown:
                    shown = webbrowser.open(out.resolve().as_uri()) or True
            if not finished:
                _wait(every if seen else LOOK_EVERY, stop)
        if seen:
            make_report(paths, out)
    say.print(f"{out}: {'all runs are finished' if finished else 'stopped'}", markup=False, soft_wrap=True)


def _wait(seconds: float, stop: StopSignal) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stop.requested:
        time.sleep(LOOK_EVERY)


def _state(paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Returns what changes when a run writes something."""
    files = [file for path in paths for kind in KINDS for file in ([path] if path.is_file() else path.rglob(kind))]
    return sorted((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


@contextmanager
def report_beside(folder: Path, out: Path) -> Iterator[None]:
    """Follows a run with a live report in a separate process and a browser; if that fails, the run continues.

    The process ends with the run: by itself when the run is finished, otherwise it is terminated.

    Args:
        folder: folder of the run; created, so that there is something to follow.
        out: the page, outside the folder.
    """
    words = ["report", str(folder), "--out", str(out), "--live", "--open"]
    if not folder.exists():  # if it is a file, the training reports it
        folder.mkdir(parents=True)
    process = subprocess.Popen([sys.executable, "-m", "regrow.lab", *words], start_new_session=True)
    try:
        yield
    except BaseException:
        process.terminate()
        raise
    finally:
        process.wait()
