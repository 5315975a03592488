"""Ascending positions as a stream of bytes, and back: their distances, in LEB128, seven bits a byte."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["decode", "encode", "spread"]

_LONGEST = 8
"""Bytes of a number: 56 bits."""


def encode(positions: Tensor) -> Tensor:
    """Bytes, uint8 (bytes,), of ascending unique positions, int64 (active,), each at least 0.

    The first number is the first position, each further one the distance from the position before, less 1. A number is
    written seven bits a byte, the lowest first; all its bytes but the last have the top bit set.

    Example:
        >>> encode(torch.tensor([3, 4, 300])).tolist()
        [3, 0, 167, 2]
    """
    before = torch.cat([positions.new_tensor([-1]), positions[:-1]])
    numbers = positions - before - 1
    lengths = torch.ones_like(numbers)
    while bool((longer := numbers >= 1 << 7 * lengths).any()):
        lengths += longer
    place = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    sevens = numbers.repeat_interleave(lengths) >> 7 * place & 0x7F
    return (sevens | 0x80 * (place < lengths.repeat_interleave(lengths) - 1)).to(torch.uint8)


def decode(stream: Tensor, active: int) -> Tensor:
    """The positions, int64 (active,), in bytes that `encode` made.

    Raises:
        ValueError: the stream ends within a number, or holds another number of positions.

    Example:
        >>> decode(torch.tensor([3, 0, 167, 2], dtype=torch.uint8), 3).tolist()
        [3, 4, 300]
    """
    sevens = stream.long()
    last = sevens < 0x80
    if int(last.sum()) != active or (active and not last[-1]):
        raise ValueError(f"{int(last.sum())} positions in {stream.numel()} bytes, expected {active}")
    lengths = torch.diff(last.nonzero().squeeze(1), prepend=torch.tensor([-1]))
    if active and int(lengths.max()) > _LONGEST:
        raise ValueError(f"a position takes {int(lengths.max())} bytes, but at most {_LONGEST} are allowed")
    place = torch.arange(stream.numel()) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    number = torch.arange(active).repeat_interleave(lengths)
    numbers = torch.zeros(active, dtype=torch.int64).index_add_(0, number, (sevens & 0x7F) << 7 * place)
    return (numbers + 1).cumsum(0) - 1


def spread(values: Tensor, positions: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of that shape with values at flat positions, 0 elsewhere."""
    return values.new_zeros(math.prod(shape)).index_copy_(0, positions, values).view(*shape)
