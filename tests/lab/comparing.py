"""Whether two runs are the same, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from regrow.lab.training.folder import TOPOLOGY_FILE, RunFolder
from regrow.lab.training.topology_file import load_topology

TIMES = {"seconds", "topology_seconds", "train_seconds", "validation_seconds", "seconds_per_step", "peak_rss_mb"}
TIMES |= {"data_wait_share"}


def files(folder: Path) -> list[str]:
    """Every file's path within the folder."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in TIMES}


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of a nested structure, by its path."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for name, part in items for key, leaf in flat(part, f"{path}/{name}").items()}
    return {path: value}


def assert_same_run(one: Path, other: Path) -> None:
    """The same files, summary, lines and topology, and the same bits in the checkpoint; times apart."""
    assert files(one) == files(other)
    folders = RunFolder(one), RunFolder(other)
    first, second = (without_times(folder.summary() or {}) for folder in folders)
    assert first == second
    for name in ("metrics.jsonl", "topology.jsonl", "weights.jsonl"):
        first_rows, second_rows = ([without_times(row) for row in folder.rows(name)] for folder in folders)
        assert first_rows == second_rows
    if (one / TOPOLOGY_FILE).exists():
        first, second = (load_topology(folder / TOPOLOGY_FILE) for folder in (one, other))
        assert first.about == second.about
        assert first.masks.keys() == second.masks.keys()
        assert all(torch.equal(mask, second.masks[name]) for name, mask in first.masks.items())
    checkpoints = [folder.checkpoint() or {} for folder in folders]
    states = [flat({part: state[part] for part in ("model", "optimizer", "updater", "rng")}) for state in checkpoints]
    assert states[0].keys() == states[1].keys()
    for path, leaf in states[0].items():
        same = torch.equal(leaf, states[1][path]) if isinstance(leaf, torch.Tensor) else leaf == states[1][path]
        assert same, path
