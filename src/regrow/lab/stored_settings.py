"""Settings as files have them: what was given, and what version 0.1 wrote in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["FIELDS_OF_0_1", "GIVEN", "OPTIONS_OF_0_1", "in_effect"]

GIVEN = "options"
"""The key of the list of options that were given. Files of version 0.1 have none."""

OPTIONS_OF_0_1: Mapping[str, Any] = {
    "prune_rate": 0.5,
    "prune_schedule": "cosine",
    "growth": "momentum",
    "inherit_momentum": True,
    "per_neuron": False,
    "share": "momentum",
    "max_density": None,
    "flops_budget": None,
    "window": None,
    "window_batch": None,
    "width": None,
    "rewind_epochs": 0,
    "distribution": "uniform",
}
"""Options that version 0.1 wrote for every method, with the values that stood for: the method's own."""

FIELDS_OF_0_1: Mapping[str, Mapping[str, Any]] = {
    "digits-mlp": {"rescale": False},
    "gpt-shakespeare": {"rescale": False},
}
"""Fields of recipes that have another value since, which the names of folders go by: old runs keep their names."""


def in_effect(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by which a run was trained, as far as they are known.

    Example:
        >>> in_effect({"lr": 0.1, "prune_rate": 0.5}), in_effect({"lr": 0.1, "prune_rate": 0.5, "options": []})
        ({'lr': 0.1}, {'lr': 0.1, 'prune_rate': 0.5})
    """
    if GIVEN in stored:
        return {key: value for key, value in stored.items() if key != GIVEN}
    return {key: value for key, value in stored.items() if value != OPTIONS_OF_0_1.get(key, ...)}
