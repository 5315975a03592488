"""The table of methods, from the registry of the library."""

from __future__ import annotations

from regrow.lab.recipes.methods import METHODS
from regrow.lab.recipes.options import updaters

from .reading import markdown

GROUPS = {
    "sparse from the first step": lambda name: name in updaters() and not updaters()[name].starts_dense,
    "chosen at initialisation": lambda name: name not in updaters() and name not in ("dense", "lottery"),
    "dense at first, with a final density": lambda name: name in updaters() and updaters()[name].starts_dense,
    "several trainings": lambda name: name == "lottery",
}


def methods() -> str:
    """When each method makes the network sparse."""
    rows = [[when, ", ".join(f"`{name}`" for name in METHODS if belongs(name))] for when, belongs in GROUPS.items()]
    return markdown(["when", "methods"], rows)
