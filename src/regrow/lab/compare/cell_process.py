"""CellProcess: one run of a grid, in a process of its own on this machine."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

__all__ = ["CellProcess", "Place"]


class Place(Protocol):
    """A place for one run, used once."""

    def run(self, command: Sequence[str], log: Path, finished: Path) -> int | None:
        """Runs a program to its end.

        Args:
            log: gets what it prints.
            finished: a file that the program writes; if it exists, nothing runs.

        Returns:
            Its exit code, negative for a signal; None where another process runs it already.
        """

    def stop(self) -> None:
        """Lets the run finish its step and save itself; a second call ends it at once. Any thread may call it."""


class CellProcess:
    """A process on this machine, see `Place`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._told = False
        self._changing = threading.Lock()

    def run(self, command: Sequence[str], log: Path, finished: Path) -> int | None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            try:  # the run holds the lock as long as it has the log, also when this process is gone
                fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            if finished.exists():
                return 0
            with self._changing:
                # in a session of its own, so that Ctrl-C reaches it once, through stop()
                process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
                self._process = process
                if self._told:
                    process.send_signal(signal.SIGTERM)
            return process.wait()

    def stop(self) -> None:
        with self._changing:
            self._told = True
            if self._process:
                self._process.send_signal(signal.SIGTERM)
