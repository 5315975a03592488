"""What the measuring commands share: reading lists of words, telling where it was measured, writing rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regrow.files import write_atomically

from .errors import UsageError

__all__ = ["check_known", "machine_line", "number", "read_density", "words", "write_rows"]


def words(text: str | None, default: Sequence[Any]) -> list[str]:
    """What was typed with commas between, or the default."""
    return [str(word) for word in default] if text is None else [word.strip() for word in text.split(",")]


def read_density(word: str) -> float:
    """A density as typed. Raises UsageError."""
    try:
        density = float(word)
    except ValueError:
        density = -1.0
    if not 0 < density <= 1:
        raise UsageError(f"density {word!r} is not above 0 and up to 1; write --densities 0.1,0.05")
    return density


def check_known(what: str, typed: Sequence[str], known: Sequence[str]) -> None:
    """Raises UsageError for a word that is not known."""
    for word in typed:
        if word not in known:
            raise UsageError(f"{word!r} is no {what}; use {', '.join(known)}")


def number(value: float | None, digits: int = 2) -> str:
    """For a cell of a table; empty where there is none."""
    return "" if value is None else f"{value:.{digits}f}"


def machine_line(row: Mapping[str, Any]) -> str:
    """Where a row was measured."""
    allocator = " ".join(f"{name}={value}" for name, value in row["allocator"].items()) or "default"
    text = f"\n{row['processor']}, {row['isa']}, {row['threads']} threads, torch {row['torch']}, "
    return f"{text}allocator: {allocator}, {row['clock']} time"


def write_rows(file: Path, command: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replaces the file by a list of these rows, each with the command that measured it."""
    with write_atomically(file) as temporary:
        temporary.write_text(json.dumps([{**row, "command": command} for row in rows], indent=1) + "\n")
