"""Active sets in which each unit sees a neighbourhood of the units below it."""

from __future__ import annotations

import torch
from torch import Tensor

from .random import gumbel
from .selection import largest

__all__ = ["receptive_field"]


def receptive_field(outputs: int, inputs: int, number: int, randomness: float, generator: torch.Generator) -> Tensor:
    """`number` positions of a weight in the bipartite receptive field model (BRF, arXiv:2501.19107, section 3.1).

    Each node of the smaller side has number / nodes links, rounded so that they add up. It lies opposite to a node of
    the other side, seen as a ring, and is linked to one at a distance of d with a chance in proportion to
    (1 + d)^(-(1 - r) / r), r the randomness: 0 links the nearest, 1 links at random.

    Args:
        outputs: rows.
        inputs: columns.
        number: 0 to outputs * inputs.
        randomness: r, in [0, 1].
        generator: on the CPU.

    Returns:
        Flat positions, int64, ascending.

    Example:
        >>> receptive_field(2, 6, 6, 0.0, torch.Generator().manual_seed(0))
        tensor([ 0,  1,  5,  8,  9, 10])
    """
    if not 0 <= randomness <= 1:
        raise ValueError(f"randomness={randomness} must be between 0 and 1")
    few, many = min(outputs, inputs), max(outputs, inputs)
    degrees = torch.full((few,), number // few)
    degrees[torch.randperm(few, generator=generator)[: number % few]] += 1
    places = torch.arange(many)
    rows = []
    for node, degree in enumerate(degrees.tolist()):
        away = (places - node * many // few).abs()
        away = torch.minimum(away, many - away).double()
        if randomness == 0:
            keys = -away
        else:
            keys = -(1 - randomness) / randomness * away.log1p() + gumbel(many, generator)
        rows.append(largest(keys, degree) + node * many)
    flat = torch.cat(rows)
    if few == outputs:
        return flat
    return (flat % many * inputs + torch.div(flat, many, rounding_mode="floor")).sort().values
