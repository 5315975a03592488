"""Draws of positions of a matrix in proportion to products of row and column weights, without the matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from .random import draw_missing

__all__ = ["sample_products"]

_ROUNDS = 64
"""Rounds of rejection, each of which leaves out what is taken or drawn already, until the rest is drawn uniformly."""


def sample_products(rows: Tensor, columns: Tensor, number: int, taken: Tensor, generator: torch.Generator) -> Tensor:
    """`number` distinct positions outside `taken`, drawn one after the other in proportion to rows[i] * columns[j].

    Time and memory grow with `number`, `taken`, rows and columns, and not with their product. Where fewer positions
    have a positive product, these are all drawn, and the others uniformly.

    Args:
        rows: weights of rows, at least 0, finite, shape (m,).
        columns: weights of columns, at least 0, finite, shape (n,).
        number: 0 to m * n - taken.numel().
        taken: flat positions i * n + j that are left out, int64, ascending and unique.
        generator: on the CPU.

    Returns:
        Flat positions, int64, shape (number,), ascending, on the CPU.

    Example:
        >>> ones, generator = torch.ones(2), torch.Generator().manual_seed(0)
        >>> sample_products(torch.tensor([0.0, 1.0]), ones, 2, torch.tensor([0]), generator)
        tensor([2, 3])
    """
    rows, columns, taken = rows.double().cpu(), columns.double().cpu(), taken.cpu()
    numel = rows.numel() * columns.numel()
    if not 0 <= number <= numel - taken.numel():
        raise ValueError(f"cannot draw {number} of {numel - taken.numel()} positions")
    likely_rows, likely_columns = rows.nonzero().squeeze(1), columns.nonzero().squeeze(1)
    if likely_rows.numel() * likely_columns.numel() <= 2 * number + taken.numel():
        drawn = _of_all(rows, columns, likely_rows, likely_columns, number, taken, generator)
    else:
        drawn = _by_rejection(rows, columns, number, taken, generator)
    if drawn.numel() < number:
        known = torch.cat([taken, drawn]).sort().values
        drawn = torch.cat([drawn, draw_missing(number - drawn.numel(), numel, known, generator)])
    return drawn.sort().values


def _of_all(
    rows: Tensor,
    columns: Tensor,
    likely_rows: Tensor,
    likely_columns: Tensor,
    number: int,
    taken: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Draws from a list of all positions of positive weight: exponential clocks, of which the first ones ring."""
    positions = (likely_rows.unsqueeze(1) * columns.numel() + likely_columns).reshape(-1)
    positions = positions[~torch.isin(positions, taken)]
    weights = rows[positions // columns.numel()] * columns[positions % columns.numel()]
    clocks = torch.empty_like(weights).exponential_(generator=generator) / weights
    return positions[clocks.argsort(stable=True)[:number]]


def _by_rejection(rows: Tensor, columns: Tensor, number: int, taken: Tensor, generator: torch.Generator) -> Tensor:
    """Draws rows and columns independently, and leaves out what is taken or has been drawn before."""
    width = columns.numel()
    drawn = taken[:0]
    for _ in range(_ROUNDS):
        missing = number - drawn.numel()
        if missing == 0:
            break
        tries = 2 * missing
        pairs = _draw(rows, tries, generator) * width + _draw(columns, tries, generator)
        fresh, place = pairs.unique(return_inverse=True)
        first = torch.full_like(fresh, tries).scatter_reduce_(0, place, torch.arange(tries), "amin")
        left_out = torch.isin(fresh, torch.cat([taken, drawn]))
        fresh, first = fresh[~left_out], first[~left_out]
        # those that came first, because what is drawn later would be less likely among fewer positions
        drawn = torch.cat([drawn, fresh[first.argsort()[:missing]]])
    return drawn


def _draw(weights: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Indices with replacement, in proportion to weights."""
    ends = weights.cumsum(0)
    marks = torch.rand(number, generator=generator, dtype=torch.float64) * ends[-1]
    # the first end above the mark: an index of weight 0 has the end of the one before it, and is never drawn
    last = int(weights.nonzero()[-1])
    return torch.searchsorted(ends, marks, right=True).clamp_(max=last)
