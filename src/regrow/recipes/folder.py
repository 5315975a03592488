"""The files of a run: description, summary, lines that grow, checkpoint; consistent whenever the run is killed.

The jsonl files only grow; a checkpoint remembers how long they were, and resuming cuts them back to that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from regrow.files import write_atomically

from .errors import RunError, UsageError
from .settings import Settings, differing

__all__ = ["DESCRIPTION", "METRICS", "TOPOLOGY", "TOPOLOGY_FILE", "WEIGHTS", "RunFolder", "open_folder"]

DESCRIPTION = "run.json"
METRICS = "metrics.jsonl"
TOPOLOGY = "topology.jsonl"
WEIGHTS = "weights.jsonl"
_GROWING = (METRICS, TOPOLOGY, WEIGHTS)
TOPOLOGY_FILE = "topology.npz"
SUMMARY = "summary.json"
CHECKPOINT = "checkpoint.pt"
FORMAT = 1


class RunFolder:
    """The files of one run.

    Example:
        >>> RunFolder("runs/digits-mlp/dense-1-s0-44136fa3").summary()["test_error"]
        2.2
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def summary(self) -> dict[str, Any] | None:
        """What a finished run came to; None before."""
        file = self.path / SUMMARY
        return json.loads(file.read_text()) if file.exists() else None

    def checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, None where there is none."""
        file = self.path / CHECKPOINT
        return load_checkpoint(file) if file.exists() else None

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds a line for each row, on the disk when this returns."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        with open(self.path / name, "a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The lines of a jsonl file."""
        return [json.loads(line) for line in (self.path / name).read_text().splitlines()]

    def save(self, state: Mapping[str, Any]) -> None:
        """Replaces the checkpoint; whoever looks sees the old one or the new one, whole."""
        lengths = {name: os.path.getsize(self.path / name) for name in _GROWING}
        with write_atomically(self.path / CHECKPOINT) as temporary:
            torch.save({"format": FORMAT, "lengths": lengths, **state}, temporary)

    def keep(self, name: str, state: Mapping[str, Any]) -> None:
        """Writes tensors beside the checkpoint, whole or not at all."""
        with write_atomically(self.path / name) as temporary:
            torch.save(dict(state), temporary)

    def describe(self, about: Mapping[str, Any]) -> None:
        """Writes run.json, which says what the run is."""
        self._write(DESCRIPTION, about)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json, which marks the run as finished."""
        self._write(SUMMARY, summary)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        with write_atomically(self.path / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")

    def cut_back(self, checkpoint: Mapping[str, Any] | None) -> None:
        """Makes the jsonl files as long as they were at the checkpoint; empty without one."""
        self.path.mkdir(parents=True, exist_ok=True)
        for kind in ("*.pt", DESCRIPTION, SUMMARY, "topology*.npz"):
            for leftover in self.path.glob(f".{kind}.*"):
                leftover.unlink()  # half-written when the run was killed
        for name in _GROWING:
            length = checkpoint["lengths"].get(name, 0) if checkpoint else 0
            with open(self.path / name, "ab") as file:
                if file.tell() < length:
                    raise RunError(
                        f"{self.path / name} is shorter than at its last checkpoint ({file.tell()} of {length} bytes); "
                        f"delete {self.path} and start anew"
                    )
                file.truncate(length)


def load_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint's content: tensors and plain values only, so nothing in it is executed."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RunError(f"{file} cannot be read as a checkpoint ({type(error).__name__}); name another file") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise RunError(f"{file} is not a checkpoint of regrow train; a state dict is for regrow.load(path, model)")
    return state


def open_folder(
    path: Path, settings: Settings, resume: bool, threads: int | None
) -> tuple[RunFolder, dict[str, Any] | None]:
    """The folder of a run, and what has been stored of it: its summary, its last checkpoint, or None.

    Raises:
        UsageError: something is there and `resume` is not set, or it is of a run with other settings.
    """
    folder = RunFolder(path)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; name a folder with --out")
    if not resume and path.exists() and any(path.iterdir()):
        raise UsageError(f"{path} exists already; go on with --resume, or choose another folder with --out")
    stored = folder.summary() or folder.checkpoint()
    if stored:
        _refuse_other_settings(path, settings, threads, stored)
    return folder, stored


def _refuse_other_settings(path: Path, settings: Settings, threads: int | None, stored: Mapping[str, Any]) -> None:
    differences = differing(settings, stored["settings"])
    if threads is not None and threads != stored["threads"]:
        differences.append(f"threads: {stored['threads']} there, {threads} now")
    if differences:
        raise UsageError(
            f"{path} holds a run with other settings ({'; '.join(differences)}); "
            "give the settings it has, or choose another folder with --out"
        )
