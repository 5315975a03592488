"""Whole reproducible runs: models, data, the training loop and the command line `regrow`.

Needs the optional dependencies: `pip install 'regrow[recipes]'`. Names load when they are first used, so that the
command line answers quickly.

Example:
    >>> from regrow.lab import make_settings, train
    >>> train(make_settings("digits-mlp", density=0.1))["test_error"]
    2.8
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import Interrupted, RunError, UsageError
    from .recipes.catalog import RECIPES, get_recipe, recipe
    from .recipes.recipe import Recipe, override
    from .recipes.settings import Settings, make_settings
    from .training.loop import train
    from .training.progress import Reporter

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
    "RECIPES": "recipes.catalog",
    "get_recipe": "recipes.catalog",
    "recipe": "recipes.catalog",
    "Recipe": "recipes.recipe",
    "override": "recipes.recipe",
    "Interrupted": "errors",
    "RunError": "errors",
    "UsageError": "errors",
    "Reporter": "training.progress",
    "Settings": "recipes.settings",
    "make_settings": "recipes.settings",
    "train": "training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
