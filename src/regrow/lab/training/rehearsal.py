"""A rehearsal of a run: what its settings make is made with one small layer, so that wrong values are found at once.

The library itself says which values are wrong, in the words that it has for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import torch
from torch import nn

from regrow.lab.errors import UsageError
from regrow.lab.recipes.methods import make_network, make_sparse, make_updater
from regrow.lab.recipes.settings import Settings
from regrow.weights.prunable import select

from .optimizer import make_optimizer

__all__ = ["rehearse", "wrong_values"]

STEPS = 100


@contextmanager
def wrong_values() -> Iterator[None]:
    """Within `with`, a ValueError of the library is a UsageError: before training all values come from settings."""
    try:
        yield
    except ValueError as error:
        raise UsageError(f"{' '.join(str(error).split())}; change the setting of that name") from error


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
        make_updater(model, make_optimizer(model, recipe), settings, STEPS)
