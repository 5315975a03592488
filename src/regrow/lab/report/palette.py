"""The look of each label, the same in every plot: the colours of Okabe and Ito, which the colour-blind tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

__all__ = ["COLOURS", "Look", "styles"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
DASHES = ((1, 0), (6, 3), (6, 3, 1, 3))
"""One for each time the colours are used up."""
MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-left", "triangle-right")
"""As many as have no factor in common with the colours: 56 different pairs."""
DENSE_COLOUR = "#000000"
STAR = "M0-1L.25-.35.95-.31.4.13.59.81 0 .42-.59.81-.4.13-.95-.31-.25-.35Z"


class Look(NamedTuple):
    """Colour, marker and dashes, as Vega names them."""

    colour: str
    marker: str
    dashes: tuple[int, ...]


def styles(labels: Iterable[str]) -> Mapping[str, Look]:
    """The look of each label, in the order of the alphabet; those of dense are black, and the first.

    Example:
        >>> styles(["static", "dense"])["static"]
        Look(colour='#0072B2', marker='circle', dashes=(1, 0))
    """
    named = sorted(set(labels))
    dense = [label for label in named if label.startswith("dense")]
    looks = {label: Look(DENSE_COLOUR, STAR, DASHES[i % len(DASHES)]) for i, label in enumerate(dense)}
    for i, label in enumerate(label for label in named if label not in looks):
        dashes = DASHES[i // len(COLOURS) % len(DASHES)]
        looks[label] = Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], dashes)
    return looks
