"""`regrow doctor`: what compressed layers run on here, and the remedy where that is not the native kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

import regrow
from regrow import ops
from regrow.lab.errors import RunError
from regrow.lab.machine import processor

from .tables import console

__all__ = ["print_doctor"]


def print_doctor() -> None:
    """Prints what the operators run on.

    Raises:
        RunError: the native kernels are not loaded; gives the reason and the remedy.
    """
    facts = ops.info()
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _lines(facts).items():
        table.add_row(name, value)
    out = console()
    out.print(table, markup=False, soft_wrap=True)
    if facts["reason"]:
        raise RunError(f"no native kernels: {facts['reason']}. Remedy: {facts['remedy']}")


def _lines(facts: Mapping[str, Any]) -> dict[str, str]:
    loaded = f"loaded from {facts['library']}" if facts["loaded"] else f"not loaded: {facts['reason']}"
    allocator = " ".join(f"{name}={value}" for name, value in facts["allocator"].items())
    return {
        "regrow": regrow.__version__,
        "torch": facts["torch"],
        "processor": processor(),
        "native kernels": loaded,
        "instruction set": facts["isa"],
        "available": ", ".join(facts["available_isas"]) or "none",
        "threads": str(facts["threads"]),
        "allocator": allocator or "the system's default (no MALLOC_ setting in the environment)",
    }
