"""Settings: the whole identity of a run, and the name of the folder that holds it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regrow.lab.errors import UsageError, unknown
from regrow.lab.stored_settings import FIELDS_OF_0_1, GIVEN, OPTIONS_OF_0_1, in_effect
from regrow.weights.prunable import select
from regrow.weights.storage import STORAGES

from .catalog import RECIPES, get_recipe
from .methods import METHODS, Choice, make_network, make_sparse, make_updater
from .optimizer import make_optimizer
from .options import given
from .recipe import Recipe, option_names, override, own_name, setting_names, stored_name

__all__ = ["Settings", "as_given", "differing", "make_settings", "rehearse", "settings_of", "wrong_values"]

_IN_FOLDER_NAME = ("recipe", "method", "density", "seed")


@dataclass(frozen=True)
class Settings(Choice):
    """All that decides the result of a run, to the bit, on a given machine and number of threads."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        if not 0 < self.density <= 1:
            raise UsageError(f"density={self.density} must be above 0 and at most 1, such as 0.05")
        if self.method == "dense" and self.density != 1:
            raise UsageError(f"the method dense trains all weights; leave out density={self.density}")
        if self.storage not in ("auto", *STORAGES):
            raise unknown("storage", self.storage, ("auto", *reversed(STORAGES)))
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed={self.seed} must be at least 0 and below 2**32")

    def as_dict(self) -> dict[str, Any]:
        """Returns all settings flat, as JSON would return them (tuples are lists)."""
        recipe = {name: _plain(getattr(self.recipe, name)) for name in setting_names()}
        options = {stored_name(name): value for name, value in self.recipe.options}
        own = {"method": self.method, "density": self.density, "storage": self.storage, "seed": self.seed}
        return {"recipe": self.recipe.name, **own, **recipe, **options}

    def stored(self) -> dict[str, Any]:
        """Returns what files hold: `as_dict`, all options of the method, and which options were given."""
        options = {stored_name(name): default for name, default in METHODS[self.method].options.items()}
        return {**options, **self.as_dict(), GIVEN: [stored_name(name) for name, _ in self.recipe.options]}

    def defaults(self) -> dict[str, Any]:
        """Returns what `as_dict` gives for this recipe, method, density and seed when nothing else is chosen."""
        published = RECIPES.get(self.recipe.name, lambda: self.recipe)()
        return Settings(published, self.method, self.density, seed=self.seed).as_dict()

    def _option_defaults(self) -> dict[str, Any]:
        """Returns the defaults of the method's options that equal those that version 0.1 had for all methods."""
        own = METHODS[self.method].options
        return {key: value for key, value in OPTIONS_OF_0_1.items() if own.get(own_name(key), value) == value}

    def folder(self) -> Path:
        """runs/<recipe>/<method>-<density>-s<seed>-<hash of the non-default settings>.

        A setting that is added later, with a default, leaves the names of old runs valid, and so does an option that
        is given its default.
        """
        settings, defaults = self.as_dict(), self._option_defaults() | self.defaults()
        defaults |= FIELDS_OF_0_1.get(self.recipe.name, {})
        changed = {k: v for k, v in settings.items() if k not in _IN_FOLDER_NAME and v != defaults.get(k, ...)}
        digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
        return Path("runs") / self.recipe.name / f"{self.method}-{self.density:g}-s{self.seed}-{digest}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def make_settings(
    recipe: str | Recipe,
    *,
    method: str = "sparse-momentum",
    density: float | None = None,
    storage: str = "auto",
    seed: int = 0,
    overrides: Iterable[str] = (),
) -> Settings:
    """Makes settings from names, like the command line.

    Args:
        method: a key of `methods.METHODS`.
        storage: "auto", "masked" or "compressed".
        seed: seed of network, topology and order of examples, at least 0.
        recipe: a name of the catalog, or a recipe.
        density: default: the recipe's, usually 0.05; 1 for the method dense.
        overrides: "key=value" for fields of the recipe.

    Raises:
        UsageError: a name does not exist, or a value is not supported.

    Example:
        >>> make_settings("digits-mlp", density=0.1, overrides=["epochs=5"]).folder()
        PosixPath('runs/digits-mlp/sparse-momentum-0.1-s0-...')
    """
    base = get_recipe(recipe) if isinstance(recipe, str) else recipe
    if density is None:
        density = 1.0 if method == "dense" else base.default_density
    settings = Settings(override(base, overrides), method, float(density), storage, seed)
    rehearse(settings)
    return settings


def as_given(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Stored settings as `as_dict` gives them: options that were not given are not there."""
    own = in_effect(stored)
    others = {*map(stored_name, option_names())} - set(stored.get(GIVEN, own))
    return {key: value for key, value in own.items() if key not in others}


def settings_of(stored: Mapping[str, Any]) -> Settings:
    """The settings of which `stored` made this; those added since then have their defaults.

    Example:
        >>> settings = make_settings("digits-mlp", density=0.1, overrides=["dense=fc3"])
        >>> settings_of(settings.stored()).recipe.dense
        ('fc3',)
    """
    there = as_given(stored)
    own = {name: stored[name] for name in setting_names() if name in stored}
    own = {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}
    options = {name: there[stored_name(name)] for name in option_names() if stored_name(name) in there}
    recipe = replace(get_recipe(stored["recipe"]), **own, options=given(**options))
    return Settings(recipe, stored["method"], stored["density"], stored["storage"], stored["seed"])


def differing(settings: Settings, stored: Mapping[str, Any]) -> list[str]:
    """One "key: stored there, given now" for each setting in which a folder's run differs from this one."""
    now, there = settings.as_dict(), as_given(stored)
    later = {name: value for name, value in settings.defaults().items() if name not in there and name not in stored}
    there |= {name: value for name, value in later.items() if name in setting_names()}
    return [
        f"{key}: {there.get(key, 'default')} there, {now.get(key, 'default')} now"
        for key in {**now, **there}
        if there.get(key, ...) != now.get(key, ...)
    ]


_REHEARSED_STEPS = 100


@contextmanager
def wrong_values() -> Iterator[None]:
    """Within `with`, a ValueError of the library is a UsageError: before training all values come from settings."""
    try:
        yield
    except ValueError as error:
        raise UsageError(f"{' '.join(str(error).split())}; change that setting") from error


def rehearse(settings: Settings) -> None:
    """Makes what the settings say, with one small layer.

    Raises:
        UsageError: a value that the library refuses, or a name in `dense` that the network does not have.
    """
    _rehearse(replace(settings, seed=0))


@cache
def _rehearse(settings: Settings) -> None:
    recipe = settings.recipe
    with torch.random.fork_rng(devices=[]), wrong_values():
        if recipe.dense:
            with torch.device("meta"):
                network = make_network(recipe)
            select(network, recipe.dense)
        model = make_sparse(nn.Linear(100, 100), replace(settings, recipe=replace(recipe, dense=())))
        make_updater(model, make_optimizer(model, recipe), settings, _REHEARSED_STEPS)
