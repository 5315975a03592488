"""Whole reproducible runs: models, data, the training loop and the command line `regrow`.

Needs the optional dependencies: `pip install 'regrow[recipes]'`. Names load when they are first used, so that the
command line answers quickly.

Example:
    >>> from regrow.recipes import make_settings, train
    >>> train(make_settings("digits-mlp", density=0.1))["test_error"]
    2.8
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .catalog import RECIPES, get_recipe, recipe
    from .config import Recipe, override
    from .errors import Interrupted, RunError, UsageError
    from .progress import Reporter
    from .settings import Settings, make_settings
    from .training import train

__all__ = [
    "RECIPES",
    "Interrupted",
    "Recipe",
    "Reporter",
    "RunError",
    "Settings",
    "UsageError",
    "get_recipe",
    "make_settings",
    "override",
    "recipe",
    "train",
]

_HOME = {
    "RECIPES": "catalog",
    "get_recipe": "catalog",
    "recipe": "catalog",
    "Recipe": "config",
    "override": "config",
    "Interrupted": "errors",
    "RunError": "errors",
    "UsageError": "errors",
    "Reporter": "progress",
    "Settings": "settings",
    "make_settings": "settings",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
