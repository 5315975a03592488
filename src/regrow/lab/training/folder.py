"""The files of a run: description, summary, lines that grow, checkpoint; consistent whenever the run is killed.

The jsonl files only grow; a checkpoint remembers how long they were, and resuming cuts them back to that. Until the run
is finished the checkpoint before the last one is kept too, and takes its place where that is damaged. One process at a
time writes there.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import regrow
from regrow.export.sparse_file import is_safetensors
from regrow.io.atomic import naming, write_atomically
from regrow.io.checked import DamagedFile, load_checked, save_checked
from regrow.lab.errors import RunError, UsageError
from regrow.lab.recipes.settings import Settings, differing

__all__ = ["DESCRIPTION", "METRICS", "TOPOLOGY", "TOPOLOGY_FILE", "WEIGHTS", "Onlooker", "RunFolder", "open_folder"]

DESCRIPTION = "run.json"
METRICS = "metrics.jsonl"
TOPOLOGY = "topology.jsonl"
WEIGHTS = "weights.jsonl"
_GROWING = (METRICS, TOPOLOGY, WEIGHTS)
TOPOLOGY_FILE = "topology.npz"
SUMMARY = "summary.json"
CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint-previous.pt"
LOCK = ".lock"
FORMAT = 2
WITHOUT_CHECKSUM = 1
"""The format of regrow 0.1."""


class RunFolder:
    """The files of one run.

    Example:
        >>> RunFolder("runs/digits-mlp/dense-1-s0-44136fa3").summary()["test_error"]
        2.2
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def summary(self) -> dict[str, Any] | None:
        """Returns what a finished run came to; None before."""
        file = self.path / SUMMARY
        try:
            return json.loads(file.read_text()) if file.exists() else None
        except ValueError as error:
            raise RunError(f"{file} is damaged ({error}); delete it, and --resume writes it again") from error

    def checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, or None."""
        file = self.path / CHECKPOINT
        return load_checkpoint(file) if file.exists() else None

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds a line for each row, on the disk when this returns."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        with naming(self.path / name), open(self.path / name, "a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The lines of a jsonl file."""
        return [json.loads(line) for line in (self.path / name).read_text().splitlines()]

    def save(self, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint; the one before it goes under another name when the new one is whole and on the disk."""
        lengths = {name: os.path.getsize(self.path / name) for name in _GROWING}
        with write_atomically(self.path / CHECKPOINT, previous=self.path / PREVIOUS) as temporary:
            save_checked({"format": FORMAT, "regrow": regrow.__version__, "lengths": lengths, **state}, temporary)

    def recover(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """Returns the last checkpoint, or the one before if it is damaged or missing; None if there is none.

        Args:
            say: is told of that.

        Raises:
            RunError: both are damaged, or there is no other; nothing is changed.
        """
        last, previous = self.path / CHECKPOINT, self.path / PREVIOUS
        if not previous.exists() and not last.exists():
            return None
        try:
            return load_checkpoint(last)
        except DamagedCheckpoint as error:
            damage = str(error)
        except FileNotFoundError:  # killed between two renames
            damage = f"{last} is missing"
        try:
            state = load_checkpoint(previous)
        except (DamagedCheckpoint, FileNotFoundError) as error:
            other = str(error) if previous.exists() else "there is no earlier checkpoint"
            raise RunError(f"{damage}; {other}; delete {self.path} and start again") from error
        os.replace(previous, last)
        say(f"{damage}; resuming from the checkpoint before it")
        return state

    def keep(self, name: str, state: Mapping[str, Any]) -> None:
        """Writes tensors beside the checkpoint, whole or not at all."""
        with write_atomically(self.path / name) as temporary:
            save_checked({"format": FORMAT, "state": dict(state)}, temporary)

    def kept(self, name: str) -> dict[str, Any]:
        """Returns what `keep` has written."""
        content = load_tensors(self.path / name)
        return content["state"] if content.get("format") == FORMAT else content  # of regrow 0.1: the tensors alone

    def describe(self, about: Mapping[str, Any]) -> None:
        """Writes run.json, which says what the run is."""
        self._write(DESCRIPTION, about)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json, which marks the run as finished; one checkpoint is enough then."""
        (self.path / PREVIOUS).unlink(missing_ok=True)
        self._write(SUMMARY, summary)
        (self.path / LOCK).unlink(missing_ok=True)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        with write_atomically(self.path / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")

    def cut_back(self, checkpoint: Mapping[str, Any] | None) -> None:
        """Makes the jsonl files as long as they were at the checkpoint; empty without one.

        Raises:
            RunError: another process trains in the folder, which stays as it is; or a file is shorter than it was.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._claim()
        self.clear()
        for name in _GROWING:
            length = checkpoint["lengths"].get(name, 0) if checkpoint else 0
            with open(self.path / name, "ab") as file:
                if file.tell() < length:
                    raise RunError(
                        f"{self.path / name} is shorter than at its last checkpoint ({file.tell()} of {length} bytes); "
                        f"delete {self.path} and start again"
                    )
                file.truncate(length)

    def _claim(self) -> None:
        """Keeps other processes out, as long as this one lives. The system lets go of the lock when it is killed."""
        self._lock = open(self.path / LOCK, "a")  # noqa: SIM115
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):  # else the file system has no locks
                raise RunError(
                    f"another process trains in {self.path}; wait for it or stop it, then continue with --resume"
                ) from error

    def clear(self) -> None:
        """Deletes what was half-written when the run was killed."""
        for kind in ("*.pt", "*.jsonl", DESCRIPTION, SUMMARY, "topology*.npz"):
            for leftover in self.path.glob(f".{kind}.*"):
                leftover.unlink()


class DamagedCheckpoint(RunError):
    """A file of tensors that is not as it was written."""


def load_tensors(file: Path) -> Any:
    """Returns what a file of a run holds: tensors and plain values only, so nothing in it is executed."""
    try:
        return load_checked(file, unchecked=WITHOUT_CHECKSUM)
    except DamagedFile as error:
        raise DamagedCheckpoint(str(error)) from error


class Onlooker(RunFolder):
    """The folder for all ranks but the first: nothing is written."""

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        pass

    def save(self, state: Mapping[str, Any]) -> None:
        pass

    def keep(self, name: str, state: Mapping[str, Any]) -> None:
        pass

    def describe(self, about: Mapping[str, Any]) -> None:
        pass

    def finish(self, summary: Mapping[str, Any]) -> None:
        pass

    def cut_back(self, checkpoint: Mapping[str, Any] | None) -> None:
        pass


def load_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint's content, of this version or an older one."""
    if is_safetensors(file):
        raise RunError(
            f"{file} is a safetensors file, not a checkpoint of regrow train; regrow summary shows regrow's own"
        )
    state = load_tensors(file)
    number = state.get("format") if isinstance(state, dict) else None
    if not isinstance(number, int):
        raise RunError(f"{file} is not a checkpoint of regrow train; load a state dict with regrow.load(path, model)")
    if number > FORMAT:
        raise RunError(f"{file} comes from regrow {state.get('regrow')}, which is newer than this one; update regrow")
    return state


def open_folder(
    path: Path,
    settings: Settings,
    resume: bool,
    threads: int | None,
    say: Callable[[str], None],
    processes: int = 1,
    deterministic: bool = False,
) -> tuple[RunFolder, dict[str, Any] | None]:
    """The folder of a run, and what has been stored of it: its summary, its last checkpoint, or None.

    `say` is told when the last checkpoint is damaged and the one before it has taken its place.

    Raises:
        UsageError: the folder is not empty and `resume` is not set, or it holds a run with other settings.
    """
    folder = RunFolder(path)
    if files := [place for place in (path, *path.parents) if place.exists() and not place.is_dir()]:
        raise UsageError(f"{files[0]} is a file; name a folder with --out")
    if not resume and path.exists() and any(path.iterdir()):
        raise UsageError(f"{path} exists already; continue it with --resume, or choose another folder with --out")
    stored = folder.summary() or folder.recover(say)
    if stored:
        _refuse_other_settings(path, settings, threads, processes, deterministic, stored)
    return folder, stored


def _refuse_other_settings(
    path: Path,
    settings: Settings,
    threads: int | None,
    processes: int,
    deterministic: bool,
    stored: Mapping[str, Any],
) -> None:
    differences = differing(settings, stored["settings"])
    if threads is not None and threads != stored["threads"]:
        differences.append(f"threads: {stored['threads']} there, {threads} now")
    if processes != (before := stored.get("processes", 1)):
        differences.append(f"processes: {before} there, {processes} now")
    if deterministic and not stored.get("deterministic"):
        differences.append("deterministic: not there, now")
    if differences:
        raise UsageError(
            f"{path} holds a run with other settings ({'; '.join(differences)}); "
            "use its settings, or choose another folder with --out"
        )
