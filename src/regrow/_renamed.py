"""Names that version 0.1 had for modules, arguments and values; they warn, and go in version 0.3."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

__all__ = ["MODULES", "install", "names", "renamed_arguments", "renamed_property", "renamed_value"]

P = ParamSpec("P")
R = TypeVar("R")

MODULES = {
    "allocation": "topology.distributions",
    "files": "serialization",
    "lazy": "topology.lazy",
    "pickles": "serialization",
    "recipes": "lab",
    "recipes.catalog": "lab.recipes.catalog",
    "recipes.cli": "lab.cli.app",
    "recipes.config": "lab.recipes.recipe",
    "recipes.data": "lab.data.datasets",
    "recipes.methods": "lab.recipes.methods",
    "recipes.progress": "lab.training.progress",
    "recipes.settings": "lab.recipes.settings",
    "recipes.training": "lab.training.loop",
    "report": "lab.report",
    "schedule": "schedules",
    "sharing": "redistribution",
    "storage": "weights.storage",
    "stray": "weights.stray",
    "updaters.alternating": "updaters.acdc",
    "updaters.evolution": "updaters.set",
    "updaters.gradual": "updaters.gmp",
    "updaters.sharded_state": "updaters.states",
    "updaters.gathered_state": "updaters.states",
    "updaters.surgery": "updaters.dns",
    "updaters.updater": "updaters.composed",
}
"""Old names of public modules, and where they are now, both below `regrow`."""


def _warn(old: str, new: str, stacklevel: int) -> None:
    text = f"{old} is {new} now; the old spelling goes in version 0.3"
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel + 1)


class _Finder:
    """Finds what was at an old name, and what was below it, at the new one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != "regrow":
            return None
        parts = name.split(".")
        known = (length for length in range(len(parts), 0, -1) if ".".join(parts[:length]) in MODULES)
        if not (length := next(known, 0)):
            return None
        new = ".".join(["regrow", MODULES[".".join(parts[:length])], *parts[length:]])
        found = find_spec(new)
        if found is None:
            return None
        loader: Any = _Loader(found.name)  # importlib.abc would take longer than all else here
        return ModuleSpec(fullname, loader, is_package=found.submodule_search_locations is not None)


class _Loader:
    """Gives the module at the new name; for a package one that looks there, because it has modules of its own below."""

    def __init__(self, name: str):
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        _warn(spec.name, self._name, stacklevel=2)
        module = import_module(self._name)
        self._spec = module.__spec__
        if spec.submodule_search_locations is None:
            return module
        package = ModuleType(spec.name, module.__doc__)
        self._spec = None
        package.__getattr__ = lambda name: getattr(module, name)  # type: ignore[method-assign]
        return package

    def exec_module(self, module: ModuleType) -> None:
        """Restores what importing has overwritten; the module itself has been loaded."""
        if self._spec is not None:
            module.__spec__ = self._spec


def install() -> None:
    """Makes imports of old module names find the modules."""
    finder: Any = _Finder()
    sys.meta_path.insert(0, finder)  # before the one that would find `lab/training` below `regrow.recipes`


def names(module: str, renamed: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns a `__getattr__` by which a module has its names under old spellings, too.

    Args:
        module: its `__name__`.
        renamed: new names by the old ones.
    """

    def __getattr__(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(f"{module}.{name}", renamed[name], stacklevel=2)
        return getattr(sys.modules[module], renamed[name])

    return __getattr__


def renamed_arguments(**renamed: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a function whose arguments have new names (values) for old ones (keys)."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in renamed.keys() & kwargs.keys():
                _warn(f"{old}=", f"{renamed[old]}=", stacklevel=2)
                kwargs.setdefault(renamed[old], kwargs.pop(old))
            return function(*args, **kwargs)

        return wrapped

    return decorate


def renamed_value(argument: str, value: Any, renamed: Mapping[str, str]) -> Any:
    """Returns the new spelling of an argument's value, and warns of an old one."""
    if isinstance(value, str) and value in renamed:
        _warn(f"{argument}={value!r}", f"{argument}={renamed[value]!r}", stacklevel=3)
        return renamed[value]
    return value


def renamed_property(old: str, new: str) -> Any:
    """Returns a property that gives what another one gives, and warns."""

    def get(self: Any) -> Any:
        _warn(old, new, stacklevel=2)
        return getattr(self, new)

    return property(get)
