"""Modules and arguments under the names that they had in version 0.1; they warn, and go in version 0.3."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["MODULES", "install"]

MODULES = {
    "allocation": "topology.distributions",
    "files": "serialization",
    "lazy": "topology.lazy",
    "recipes": "lab",
    "report": "lab.report",
    "schedule": "schedules",
    "sharing": "redistribution",
    "storage": "weights.compression",
}
"""Old names of public modules, and where they are now, both below `regrow`."""


class _Finder(MetaPathFinder):
    """Finds what was at an old name, and what was below it, at the new one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, rest = fullname.partition(".")
        old, dot, below = rest.partition(".")
        if package != "regrow" or old not in MODULES:
            return None
        return ModuleSpec(fullname, _Loader(f"regrow.{MODULES[old]}{dot}{below}"))


class _Loader(Loader):
    """Gives the module at the new name."""

    def __init__(self, name: str):
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(
            f"{spec.name} is {self._name} now; the old name goes in version 0.3", DeprecationWarning, stacklevel=2
        )
        module = import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Puts back what importing has written over; the module itself has been loaded."""
        module.__spec__ = self._spec


def install() -> None:
    """Has imports of old names find the modules."""
    sys.meta_path.append(_Finder())
