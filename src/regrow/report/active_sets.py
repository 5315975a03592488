"""Active sets in topology files: a bit a position, read with numpy alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

__all__ = ["read_active_sets"]


def read_active_sets(file: str | Path) -> tuple[dict[str, NDArray[numpy.bool_]], dict[str, Any]]:
    """Masks by parameter name, bool of each weight's shape, and what made them; of a topology.npz.

    Raises:
        FileNotFoundError: there is no such file. KeyError, ValueError, OSError: it holds something else.
    """
    with numpy.load(file) as stored:
        about = json.loads(str(stored["about"]))
        names = [key.removeprefix("bits/") for key in stored.files if key.startswith("bits/")]
        return {name: _unpack(stored[f"bits/{name}"], stored[f"shape/{name}"]) for name in names}, about


def _unpack(bits: Any, shape: Any) -> NDArray[numpy.bool_]:
    size = tuple(int(n) for n in shape)
    return numpy.unpackbits(bits)[: int(numpy.prod(size))].astype(bool).reshape(size)
