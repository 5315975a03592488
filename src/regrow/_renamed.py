"""Names that version 0.1 had for modules, arguments and values; they warn, and go in version 0.3."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

__all__ = ["MODULES", "install", "names", "renamed_arguments", "renamed_property", "renamed_value"]

P = ParamSpec("P")
R = TypeVar("R")

MODULES = {
    "allocation": "topology.distributions",
    "files": "serialization",
    "lazy": "topology.lazy",
    "recipes": "lab",
    "report": "lab.report",
    "schedule": "schedules",
    "sharing": "redistribution",
    "storage": "weights.storage",
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
        package, _, rest = fullname.partition(".")
        old, dot, below = rest.partition(".")
        if package != "regrow" or old not in MODULES:
            return None
        loader: Any = _Loader(
            f"regrow.{MODULES[old]}{dot}{below}"
        )  # importlib.abc would take longer than all else here
        return ModuleSpec(fullname, loader)


class _Loader:
    """Gives the module at the new name."""

    def __init__(self, name: str):
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        _warn(spec.name, self._name, stacklevel=2)
        module = import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Puts back what importing has written over; the module itself has been loaded."""
        module.__spec__ = self._spec


def install() -> None:
    """Has imports of old module names find the modules."""
    finder: Any = _Finder()
    sys.meta_path.append(finder)


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
