"""The summaries of a comparison's finished runs in one file, with which a folder can travel without its runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from regrow.io.atomic import write_atomically
from regrow.lab.errors import UsageError
from regrow.lab.training.folder import SUMMARY

from .grid import Cell

__all__ = ["FINISHED", "bring_back", "keep"]

FINISHED = "finished.jsonl"


def keep(out: Path, cells: Sequence[Cell]) -> None:
    """Writes a line for each finished run: the name of its folder, and its summary."""
    lines = [json.dumps({"run": cell.folder.name, "summary": summary}) for cell in cells if (summary := cell.summary)]
    with write_atomically(out / FINISHED) as temporary:
        temporary.write_text("".join(line + "\n" for line in lines))


def bring_back(out: Path, cells: Sequence[Cell]) -> None:
    """Restores the folders of finished runs, with only the summary, if no run has a folder.

    Raises:
        UsageError: the file is damaged; the message names the line.
    """
    file, runs = out / FINISHED, cells[0].folder.parent
    if not file.exists() or runs.exists():
        return
    finished = [_read(file, number, line) for number, line in enumerate(file.read_text().splitlines(), 1)]
    names = {cell.folder.name for cell in cells}
    whole = out / ".runs"  # takes its name when it is complete: half of it would pass for all that was trained
    shutil.rmtree(whole, ignore_errors=True)
    for name, summary in finished:
        if name in names:
            (whole / name).mkdir(parents=True)
            (whole / name / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")
    if whole.exists():
        whole.rename(runs)


def _read(file: Path, number: int, line: str) -> tuple[str, dict]:
    try:
        read = json.loads(line)
        return read["run"], read["summary"]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{file}, line {number} is damaged; delete it to train its run again") from None
