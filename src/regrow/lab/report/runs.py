"""Run folders as reports see them: their JSON files, which can be read during the run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from regrow.lab.stored_settings import in_effect

from .leaderboard import percent
from .lines import named

__all__ = ["Run", "differences", "is_run", "name_runs", "read_run", "shown_in_detail"]

DETAILED = 4
"""Runs that are shown layer by layer, at most."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """The content of a run folder.

    Attributes:
        about: run.json; empty in runs of earlier versions.
        summary: None until the run is finished.
        metrics: the lines of metrics.jsonl.
        updates: the lines of topology.jsonl.
        histograms: the lines of weights.jsonl.
        label: method and density, and whatever else tells it from the others, the seed apart; see `name_runs`.
    """

    path: Path
    about: Mapping[str, Any]
    summary: Mapping[str, Any] | None
    metrics: Rows
    updates: Rows
    histograms: Rows
    label: str = ""

    @property
    def settings(self) -> Mapping[str, Any]:
        """All settings in effect; empty for a run of an earlier version that is not finished."""
        return in_effect(self.about.get("settings") or (self.summary or {}).get("settings") or {})

    @property
    def recipe(self) -> str:
        return self.settings.get("recipe", "")

    @property
    def seed(self) -> int | None:
        return self.settings.get("seed")

    @property
    def dense(self) -> bool:
        return self.settings.get("method") == "dense"

    @property
    def command(self) -> str | None:
        """The command that made it; None where the run did not record it."""
        return self.about.get("command")

    @property
    def name(self) -> str:
        """Label and seed."""
        return self.label if self.seed is None else f"{self.label}, seed {self.seed}"

    @property
    def layers(self) -> dict[str, int]:
        """Positions of each weight that could be sparse, by name; empty where they are not recorded."""
        return {name: prod(shape) for name, shape in self.about.get("layers", {}).items()}

    @property
    def topology_file(self) -> Path | None:
        """The active sets at the end, or of the latest epoch at which they were written."""
        files = [self.path / "topology.npz", *sorted(self.path.glob("topology-epoch*.npz"), key=_epoch, reverse=True)]
        return next((file for file in files if file.exists()), None)


def _epoch(file: Path) -> int:
    return int(file.stem.removeprefix("topology-epoch"))


def is_run(path: Path) -> bool:
    """Returns whether a folder is one that `regrow train` writes."""
    return (path / "metrics.jsonl").exists()


def read_run(path: Path) -> Run:
    """The run in a folder, finished or not."""
    about, summary = _read(path / "run.json"), _read(path / "summary.json")
    metrics, updates, histograms = (_lines(path / f"{name}.jsonl") for name in ("metrics", "topology", "weights"))
    return Run(path, about or {}, summary, metrics, updates, histograms)


def _read(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _lines(file: Path) -> Rows:
    """The whole lines of a file; the last one may be half written."""
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def name_runs(runs: Iterable[Run]) -> list[Run]:
    """The same runs with labels: method and density, with the settings that runs of one recipe and these differ by."""
    runs = list(runs)
    changes = differences([run.settings for run in runs])
    return [replace(run, label=_label(run, changed)) for run, changed in zip(runs, changes, strict=True)]


def _label(run: Run, changed: Mapping[str, Any]) -> str:
    if not run.settings:
        return run.path.name
    first = "dense" if run.dense else f"{run.settings['method']} {percent(run.settings['density'])}"
    return ", ".join([first, *(f"{named(key)} {value}" for key, value in changed.items())])


def differences(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns, for each run, the settings in which it differs from another of its recipe, method and density.

    The seed is none of them, nor is a setting that one of the two does not have, because it is of an earlier version.

    Example:
        >>> differences([{"method": "set", "density": 0.1, "lr": 0.1}, {"method": "set", "density": 0.1, "lr": 0.2}])
        [{'lr': 0.1}, {'lr': 0.2}]
    """
    alike: dict[Any, list[Mapping[str, Any]]] = {}
    for one in settings:
        alike.setdefault(_kind(one), []).append(one)
    found = []
    for one in settings:
        keys = [key for key in one if key != "seed"]
        differing = [key for key in keys if any(other.get(key, one[key]) != one[key] for other in alike[_kind(one)])]
        found.append({key: one[key] for key in differing})
    return found


def _kind(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(settings.get(key) for key in ("recipe", "method", "density"))


def shown_in_detail(runs: Iterable[Run]) -> list[Run]:
    """The first run of each recipe and label, sparse ones, at most `DETAILED`."""
    firsts: dict[tuple[str, str], Run] = {}
    for run in runs:
        if not run.dense:
            firsts.setdefault((run.recipe, run.label), run)
    return list(firsts.values())[:DETAILED]
