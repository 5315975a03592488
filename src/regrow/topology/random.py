"""Explicit random generators, and exactly uniform draws without replacement from any number of positions."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["draw_distinct", "draw_missing", "gumbel", "seeded_generator"]

_RANGE = 2**62
"""Integers are drawn below this, and those that would favour small remainders are drawn again."""


def seeded_generator(seed: int | None) -> torch.Generator:
    """A CPU generator; without a seed its seed is drawn from torch's global generator."""
    if seed is None:
        seed = int(torch.randint(2**62, (1,), dtype=torch.int64))
    return torch.Generator().manual_seed(seed)


def gumbel(number: int, generator: torch.Generator) -> Tensor:
    """Gumbel noise, float64, shape (number,): the largest of log(weight) + noise are draws in proportion to weights,
    one after the other and without replacement."""
    return -torch.empty(number, dtype=torch.float64).exponential_(generator=generator).log_()


def draw_distinct(number: int, below: int, generator: torch.Generator | None) -> Tensor:
    """`number` distinct integers in [0, below), uniformly random, int64, shape (number,), in no order to rely on.

    In time and memory proportional to `number` where that is small beside `below`. (torch.randint alone favours
    some integers, by up to 5 % below 2^28.)

    Args:
        below: at most 2^62.
        generator: None draws from torch's global one.

    Example:
        >>> draw_distinct(3, 3, torch.Generator().manual_seed(0)).sort().values
        tensor([0, 1, 2])
    """
    if not 0 <= number <= below <= _RANGE:
        raise ValueError(f"cannot draw {number} distinct integers below {below}")
    if number > below // 4:
        return torch.randperm(below, generator=generator)[:number]
    drawn = torch.zeros(0, dtype=torch.int64)
    while drawn.numel() < number:
        more = torch.randint(_RANGE, (number - drawn.numel(),), generator=generator)
        more = more[more < _RANGE // below * below] % below
        drawn = torch.cat([drawn, more]).unique()
    return drawn


def draw_missing(number: int, numel: int, taken: Tensor, generator: torch.Generator) -> Tensor:
    """Positions in [0, numel) outside `taken`, uniformly random, ascending, int64, shape (number,).

    Args:
        number: 0 to numel - taken.numel().
        taken: ascending and unique.

    Example:
        >>> draw_missing(2, 4, torch.tensor([0, 2]), torch.Generator().manual_seed(0))
        tensor([1, 3])
    """
    ranks = draw_distinct(number, numel - taken.numel(), generator).sort().values.to(taken.device)
    # the r-th missing position is r + (how many taken ones lie before it)
    gaps = taken - torch.arange(taken.numel(), device=taken.device)
    return ranks + torch.searchsorted(gaps, ranks, right=True)
