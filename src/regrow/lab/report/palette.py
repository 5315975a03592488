"""The look of each label, the same in every plot: the colours of Okabe and Ito, which the colour-blind tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["COLOURS", "DENSE_COLOUR", "styles"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
DASHES = ("-", "--", "-.")
"""One for each time the colours are used up."""
MARKERS = ("o", "s", "^", "D", "v", "p", "<", ">", "h", "P", "X")
"""As many as have no factor in common with the colours: 77 different pairs."""
DENSE_COLOUR = "#000000"


def styles(labels: Iterable[str]) -> Mapping[str, tuple[str, str, str]]:
    """Colour, marker and dashes (as matplotlib names them) of each label and of dense, in the order of the alphabet.

    Example:
        >>> styles(["dense", "static"])
        {'dense': ('#000000', '*', '-'), 'static': ('#0072B2', 'o', '-')}
    """
    named = {
        label: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], DASHES[i // len(COLOURS) % len(DASHES)])
        for i, label in enumerate(sorted(set(labels) - {"dense"}))
    }
    return {"dense": (DENSE_COLOUR, "*", "-"), **named}
