"""Pictures of active sets and shares: arrays as small PNG files inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy
from numpy.typing import NDArray
from PIL import Image

from .active_sets import read_active_sets
from .charts import Figure, Picture, layer_name
from .runs import Run

__all__ = ["heat_picture", "mask_figures"]

SHOWN = 32
"""Output channels, input channels and units that a picture shows, at most."""
SIDE = 320
"""Pixels of the screen to which small pictures are scaled up."""
TEXT = ("gpt-char",)
"""Models whose inputs are no images."""
DARK, LIGHT, GAP = (0, 60, 110), (255, 255, 255), (205, 205, 205)
Array = NDArray[Any]


def mask_figures(run: Run) -> list[Figure]:
    """The active sets that a run has written: kernels of convolutions, and what the first Linear layer sees."""
    if run.topology_file is None:
        return []
    found, _, _ = read_active_sets(run.topology_file)
    masks = {name: active for name, active in found.items() if active.dtype == bool}
    commands = [run.command] if run.command else []
    figures = _kernels(masks, commands)
    first = next(iter(found), None)
    if first in masks and {**(run.summary or {}), **run.about}.get("model") not in TEXT:
        figures += _receptive_fields(first, masks[first], commands)
    return figures


def _kernels(masks: Mapping[str, Array], commands: list[str]) -> list[Figure]:
    pictures = []
    for name, mask in masks.items():
        if mask.ndim != 4 or mask.shape[-1] == 1:
            continue
        shown = mask[:SHOWN, :SHOWN].swapaxes(0, 1)
        rows, columns = shown.shape[:2]
        text = f"{layer_name(name)}: {columns} of {mask.shape[0]} output by {rows} of {mask.shape[1]} input channels"
        pictures.append(_picture(_tiles(shown), text))
    if not pictures:
        return []
    return [
        Figure(
            "Kernels of the convolutions",
            "A small square is a kernel, a dark pixel an active weight; a column is an output channel, a row an input "
            "channel.",
            commands,
            pictures=pictures,
        )
    ]


def _receptive_fields(name: str, mask: Array, commands: list[str]) -> list[Figure]:
    """Returns the picture of the first layer, if that is a Linear layer whose inputs make a square image."""
    side = _side(mask.shape[1]) if mask.ndim == 2 else None
    if side is None:
        return []
    fields = mask.reshape(len(mask), -1, side, side)
    seen = fields.sum(axis=(0, 1))
    units: Any = fields[:SHOWN].any(axis=1)
    per_row = 8
    units = numpy.concatenate([units, numpy.zeros((-len(units) % per_row, side, side), numpy.bool_)])
    first = f"{layer_name(name)}: active weights of each pixel, {seen.min()} (light) to {seen.max()} (dark)"
    second = f"{layer_name(name)}: pixels that each of the first {min(len(mask), SHOWN)} units sees"
    return [
        Figure(
            "What the first layer looks at",
            f"The inputs of the layer as an image of {side} by {side} pixels; all channels of a pixel together.",
            commands,
            pictures=[
                heat_picture(seen / max(seen.max(), 1), first),
                _picture(_tiles(units.reshape(-1, per_row, side, side)), second),
            ],
        )
    ]


def _side(inputs: int) -> int | None:
    """Pixels of the side of a square image, of one channel or three."""
    sides = [round((inputs / channels) ** 0.5) for channels in (1, 3)]
    return next((side for side, channels in zip(sides, (1, 3), strict=True) if side**2 * channels == inputs), None)


def _tiles(masks: Array) -> Array:
    """Masks (rows, columns, height, width) side by side with a line between; RGB, uint8."""
    rows, columns, height, width = masks.shape
    out = numpy.empty((rows * (height + 1) + 1, columns * (width + 1) + 1, 3), numpy.uint8)
    out[:] = GAP
    for row in range(rows):
        for column in range(columns):
            y, x = row * (height + 1) + 1, column * (width + 1) + 1
            out[y : y + height, x : x + width] = numpy.where(masks[row, column, :, :, None], DARK, LIGHT)
    return out


def heat_picture(shares: Array, title: str) -> Picture:
    """Numbers from 0 (white) to 1 (dark), (height, width)."""
    shade = numpy.asarray(shares, float)[:, :, None]
    return _picture((numpy.array(LIGHT) * (1 - shade) + numpy.array(DARK) * shade).astype(numpy.uint8), title)


def _picture(pixels: Array, title: str) -> Picture:
    """A PNG that the page scales up without smoothing."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    uri = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return Picture(uri, pixels.shape[1] * max(1, SIDE // max(pixels.shape[:2])), title)
