"""Griffe extension: parameters and entries of docstrings agree, or the build fails.

The section that docstrings head with "Example:" is what griffe calls "Examples:".
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

REFERENCE = Path(__file__).parent / "reference"
log = logging.getLogger("mkdocs.plugins.docstrings")  # whose warnings end a strict build


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        if pkg.name == "regrow":
            for complaint in complaints(pkg):
                log.warning(complaint)


def complaints(package: griffe.Module) -> Iterator[str]:
    """Returns what is wrong with the docstrings of the objects on the reference pages, a line each."""
    for name in shown():
        yield from _of_object(package[name.removeprefix("regrow.")])


def shown() -> list[str]:
    """The objects that reference pages show."""
    pages = "\n".join(page.read_text() for page in sorted(REFERENCE.glob("*.md")))
    return re.findall(r"^::: (\S+)", pages, flags=re.MULTILINE)


def _of_object(obj: Any) -> Iterator[str]:
    if obj.is_alias:
        return
    if obj.is_module:
        for member in obj.members.values():
            if not member.is_alias and not member.is_module and member.is_public:
                yield from _of_object(member)
    elif obj.is_class or obj.is_function:
        yield from _of_callable(obj)
    if obj.is_class:
        for member in obj.members.values():
            if member.is_function and member.name[0] != "_" and member.docstring:
                yield from _of_callable(member)


def _of_callable(obj: Any) -> Iterator[str]:
    function = obj.all_members.get("__init__") if obj.is_class else obj
    if obj.docstring is None or function is None or not function.is_function:
        return
    parameters = [p.name.lstrip("*") for p in function.parameters if p.name not in ("self", "cls")]
    kinds = ("parameters", "attributes", "other parameters")
    sections = [part for part in obj.docstring.parse("google", warnings=False) if part.kind.value in kinds]
    entries = [entry.name.lstrip("*") for part in sections for entry in part.value]
    if obj.is_class:  # fields of dataclasses have docstrings of their own
        entries += [name for name, member in obj.members.items() if member.is_attribute and member.docstring]
    for name in parameters:
        if name not in entries:
            yield f"{obj.path}: the parameter {name} has no entry of its own in the docstring"
    documented = [
        entry.name.lstrip("*") for part in sections if part.kind.value == "parameters" for entry in part.value
    ]
    for name in documented:
        if name not in parameters:
            yield f"{obj.path}: the docstring has an entry {name}, which is no parameter"
