"""Shared parts of the measuring commands: reading lists of words, naming the machine, writing rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regrow.io.atomic import write_atomically
from regrow.lab.cli.tables import console
from regrow.lab.errors import UsageError

__all__ = [
    "Rows",
    "check_known",
    "machine_line",
    "number",
    "read_batches",
    "read_densities",
    "read_density",
    "words",
    "write_rows",
]

DENSITY = "0.05"  # where neither densities nor a topology are given


def words(text: str | None, default: Sequence[Any]) -> list[str]:
    """Returns what was typed with commas between, or the default."""
    return [str(word) for word in default] if text is None else [word.strip() for word in text.split(",")]


def read_density(word: str, option: str = "--densities") -> float:
    """A density as typed. Raises UsageError with the option that it was typed for."""
    try:
        density = float(word)
    except ValueError:
        density = -1.0
    if not 0 < density <= 1:
        raise UsageError(f"density {word!r} must be above 0 and at most 1, such as {option} 0.1,0.05")
    return density


def read_densities(text: str | None, topology: object) -> list[float]:
    """Densities as typed. Raises UsageError, too, where a topology is given beside them: it has its own."""
    if topology is not None and text is not None:
        raise UsageError(f"--density {text} conflicts with --topology, which has its own density; leave one out")
    return [read_density(word, "--density") for word in words(text, [DENSITY])]


def read_batches(option: str, text: str) -> list[int]:
    """Numbers of images as typed. Raises UsageError."""
    for word in words(text, ()):
        if not (word.isascii() and word.isdigit() and int(word)):
            raise UsageError(f"batch {word!r} must be a whole number of at least 1, such as {option} 16,128")
    return [int(word) for word in words(text, ())]


def check_known(what: str, typed: Sequence[str], known: Sequence[str]) -> None:
    """Raises UsageError for a word that is not known."""
    for word in typed:
        if word not in known:
            raise UsageError(f"{word!r} is not a {what}; use {', '.join(known)}")


def number(value: float | None, digits: int = 2) -> str:
    """Returns the text for a cell of a table; empty if there is no value."""
    return "" if value is None else f"{value:.{digits}f}"


def machine_line(row: Mapping[str, Any]) -> str:
    """Returns where a row was measured."""
    allocator = " ".join(f"{name}={value}" for name, value in row["allocator"].items()) or "default"
    text = f"\n{row['processor']}, {row['isa']}, {row['threads']} threads, torch {row['torch']}, "
    return f"{text}allocator: {allocator}, {row['clock']} time"


def write_rows(file: Path, command: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as JSON, whole or not at all, each with the command that measures them."""
    with write_atomically(file) as temporary:
        temporary.write_text(json.dumps([{**row, "command": command} for row in rows], indent=1) + "\n")


@dataclass
class Rows:
    """Shows rows as they are measured: a plain line for each, on a terminal too, because animation would take time from
    the measurement; and rewrites the file after each.

    Attributes:
        total: number of rows to come.
        command: that measures them.
        file: the JSON file, or None.
        line: text for a row.
    """

    total: int
    command: str
    file: Path | None
    line: Callable[[Mapping[str, Any]], str]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def starting(self, what: str) -> None:
        """Says what is measured next."""
        print(f"{len(self.rows) + 1}/{self.total}  {what}: ", end="", flush=True)

    def add(self, row: dict[str, Any]) -> None:
        """Records a measured row."""
        self.rows.append(row)
        print(self.line(row), flush=True)
        if self.file is not None:
            write_rows(self.file, self.command, self.rows)

    def say_where(self) -> None:
        """Says where the file is."""
        if self.file is not None:
            console().print(f"in {self.file}", markup=False, soft_wrap=True)
