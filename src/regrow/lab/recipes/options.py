"""Options of a method: named, given defaults and explained by the constructor of its updater."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from regrow.updaters import Updater, registry

__all__ = ["Option", "entries", "given", "known_options", "options_of", "updaters"]

_GIVEN_BY_A_RUN = {"model", "optimizer", "total_steps", "update_every", "density", "seed"}


@dataclass(frozen=True)
class Option:
    """A setting of some methods or models, beside those that all recipes have; mostly an argument of an updater."""

    name: str
    type: str
    """The annotation, such as "float | None"."""
    default: Any
    about: str
    """The docstring's explanation."""


_OF_NO_UPDATER = [
    Option("distribution", "str", "uniform", "How the weights are spread over layers at first; see `sparsify`."),
    Option(
        "receptive_field",
        "float | None",
        None,
        "Start from receptive fields of this randomness, 0 to 1 (see `receptive_fields`); None: uniformly random.",
    ),
    Option("width", "int | None", None, "Hidden units of each layer of the models table-mlp and wide-mlp."),
    Option("initial_density", "float", 1.0, "Density at which GraNet starts, from the final one to 1."),
    Option(
        "compress_below",
        "float",
        0.3,
        "Density at which a layer becomes compressed, with `--storage compressed`; before, it is masked.",
    ),
    Option(
        "rewind_epochs",
        "int",
        0,
        "Epochs of the dense training whose weights lottery tickets go back to; 0: those at initialisation.",
    ),
]


def given(**options: Any) -> tuple[tuple[str, Any], ...]:
    """Options as recipes hold them.

    Example:
        >>> given(window=10, prune_rate=0.2)
        (('prune_rate', 0.2), ('window', 10))
    """
    return tuple(sorted(options.items()))


def updaters() -> dict[str, type[Updater]]:
    """The updaters of the registry, by the names that their methods have on the command line."""
    kinds = [kind for kind in vars(registry).values() if isinstance(kind, type) and issubclass(kind, Updater)]
    return {kind.method: kind for kind in kinds}


@cache
def known_options() -> Mapping[str, Option]:
    """All options by name; where several updaters have one, that which may be None, or else the first one's."""
    found = {option.name: option for option in _OF_NO_UPDATER}
    for kind in updaters().values():
        for name, option in options_of(kind).items():
            if name not in found or option.type == f"{found[name].type} | None":
                found[name] = option
    return found


@cache
def options_of(kind: type[Updater]) -> Mapping[str, Option]:
    """The options of an updater, by name: all arguments except those that a run sets.

    Example:
        >>> options_of(regrow.SET)["prune_rate"].default
        0.3
    """
    about = entries(inspect.getdoc(kind) or "")
    parameters = [p for p in inspect.signature(kind).parameters.values() if p.name not in _GIVEN_BY_A_RUN]
    return {p.name: Option(p.name, str(p.annotation), p.default, about.get(p.name, "")) for p in parameters}


def entries(text: str) -> dict[str, str]:
    """The entries of the sections of a docstring, by name, each on one line; of equal names the first.

    Example:
        >>> entries("Line.\\n\\nArgs:\\n    lr: learning\\n        rate.\\n")["lr"]
        'learning rate.'
    """
    found = re.finditer(r"^    (\w+): (.*?)(?=^    \w+(, \w+)*: |^\S|^$|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return {match[1]: " ".join(match[2].split()) for match in reversed(list(found))}
