"""Active sets in topology files, read with numpy alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

__all__ = ["read_active_sets"]


def read_active_sets(file: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, list[int]], dict[str, Any]]:
    """Returns what a topology.npz holds.

    Returns:
        Active sets by parameter name: a mask, bool of the weight's shape, or of very large weights the active
        positions, int64, ascending. The shapes. What made them.

    Raises:
        FileNotFoundError: there is no such file. KeyError, ValueError, OSError: it holds something else.
    """
    with numpy.load(file) as stored:
        about = json.loads(str(stored["about"]))
        shapes = {key.removeprefix("shape/"): stored[key].tolist() for key in stored.files if key.startswith("shape/")}
        return {name: _active(stored, name, shape) for name, shape in shapes.items()}, shapes, about


def _active(stored: Any, name: str, shape: list[int]) -> NDArray[Any]:
    if f"gaps/{name}" in stored.files:
        return stored[f"gaps/{name}"].cumsum()
    return numpy.unpackbits(stored[f"bits/{name}"])[: math.prod(shape)].astype(bool).reshape(shape)
