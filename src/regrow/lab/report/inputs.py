"""Inputs of a report: run folders, comparison folders and JSON files, told apart by what they hold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regrow.lab.stored_settings import in_effect

from .leaderboard import Entry, Row, leaderboard
from .runs import Run, differences, is_run, name_runs, read_run

__all__ = ["Board", "Inputs", "ReportError", "read_inputs"]


class ReportError(ValueError):
    """A report cannot be made; the message names what was given, and the remedy."""


@dataclass(frozen=True)
class Board:
    """One leaderboard: rows as `leaderboard` makes them, of one recipe, and the commands that made them."""

    recipe: str
    rows: Sequence[Row]
    commands: Sequence[str]
    seeds: int


@dataclass
class Inputs:
    """All inputs, by kind.

    Attributes:
        layers: rows of `regrow bench layers`.
        steps: rows of `regrow bench step`.
        epochs: rows of `regrow bench run`.
        storages: rows of layer memory by density.
        features: output of `regrow features`.
        missing: number of runs of comparisons without a folder yet.
    """

    runs: list[Run] = field(default_factory=list)
    boards: list[Board] = field(default_factory=list)
    layers: list[Row] = field(default_factory=list)
    steps: list[Row] = field(default_factory=list)
    epochs: list[Row] = field(default_factory=list)
    storages: list[Mapping[str, Any]] = field(default_factory=list)
    features: list[Mapping[str, Any]] = field(default_factory=list)
    missing: int = 0

    @property
    def finished(self) -> bool:
        """Returns whether no run is under way or to come."""
        return self.missing == 0 and all(run.summary is not None for run in self.runs)


def read_inputs(paths: Iterable[str | Path]) -> Inputs:
    """Reads all of them.

    Args:
        paths: a run folder; the folder of a comparison; a folder of either; or a JSON file of `regrow bench`,
            `regrow features` or a program of benchmarks/.

    Raises:
        ReportError: there is no such path, or it holds nothing that a report can show.

    Example:
        >>> [run.label for run in read_inputs(["runs/demo"]).runs]
        ['dense', 'sparse-momentum 10 %']
    """
    inputs, compared = Inputs(), set[Path]()
    for path in map(Path, paths):
        if path.is_dir():
            compared |= _read_folder(path, inputs)
        elif path.exists():
            _read_file(path, inputs)
        else:
            raise ReportError(f"there is no {path}; name run folders, comparison folders or JSON files of regrow bench")
    inputs.runs = name_runs({run.path.resolve(): run for run in inputs.runs}.values())
    single = [run.summary for run in inputs.runs if run.summary and run.path not in compared]
    inputs.boards += _boards(single, {run.recipe: _commands(inputs.runs, run.recipe, compared) for run in inputs.runs})
    return inputs


def _read_folder(path: Path, inputs: Inputs) -> set[Path]:
    """Returns the runs that are in a leaderboard already."""
    if is_run(path):
        inputs.runs.append(read_run(path))
        return set()
    note = path / "grid.json"
    runs = path / "runs" if note.exists() else path
    found = sorted(folder for folder in runs.glob("*") if is_run(folder))
    inputs.runs += [read_run(folder) for folder in found]
    if not note.exists() and not found:
        raise ReportError(f"{path} is not a run folder and holds none; name a folder from regrow train or compare")
    if not note.exists():
        return set()
    about, board = json.loads(note.read_text()), path / "leaderboard.json"
    rows = json.loads(board.read_text()) if board.exists() else []
    inputs.missing += max(0, about.get("runs", 0) - len(found))
    if rows:
        commands = [about["command"]] if "command" in about else []
        inputs.boards.append(Board(about["recipe"], rows, commands, len(about["seeds"])))
    return set(found)


def _read_file(path: Path, inputs: Inputs) -> None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        of_file = content if isinstance(content, dict) else {}
        rows: Any = of_file.get("networks", of_file.get("rows")) if of_file else content
        first = rows[0]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ReportError(f"{path} is not a JSON file with rows; name one that regrow bench --json wrote") from error
    if "command" in of_file and "networks" not in of_file:
        rows = [{"command": of_file["command"], **row} for row in rows]
    if "case" in first:
        inputs.layers += rows
    elif "sparse_epoch_s" in first:
        inputs.epochs += rows
    elif "work_ms" in first:
        inputs.steps += rows
    elif "counted" in first:
        inputs.storages.append(of_file)
    elif "networks" in of_file and "classes" in first:
        inputs.features.append(of_file)
    elif "test_error" in first and "prunable_weights" in first:
        commands = [of_file["command"]] if "command" in of_file else []
        inputs.boards += _boards(rows, {row["recipe"]: commands for row in rows})
    else:
        raise ReportError(
            f"{path} holds rows with {', '.join(list(first)[:4])}, which no report shows; name a file of regrow bench "
            "layers, step or run, of regrow features, or the table of a benchmark"
        )


def _commands(runs: Sequence[Run], recipe: str, compared: set[Path]) -> list[str]:
    """Returns the commands of the runs of a recipe that belong to no comparison."""
    return [run.command for run in runs if run.recipe == recipe and run.command and run.path not in compared]


def _boards(summaries: Sequence[Mapping[str, Any]], commands: Mapping[str, Sequence[str]]) -> list[Board]:
    """A leaderboard for each recipe: a row for each method and density, and for each setting that these differ by.

    Args:
        commands: commands by recipe.
    """
    boards = []
    for recipe in dict.fromkeys(summary["recipe"] for summary in summaries):
        own = [summary for summary in summaries if summary["recipe"] == recipe]
        groups: dict[str, tuple[dict[str, Any], list[Mapping[str, Any]]]] = {}
        for summary, changed in zip(own, differences([in_effect(summary["settings"]) for summary in own]), strict=True):
            key = json.dumps([summary["method"], summary["density"], changed])
            groups.setdefault(key, (changed, []))[1].append(summary)
        entries = [
            Entry(group[0]["method"], group[0]["density"], changed, group, len(group))
            for changed, group in groups.values()
        ]
        boards.append(
            Board(recipe, leaderboard(entries), commands.get(recipe, ()), max(entry.seeds for entry in entries))
        )
    return boards
