"""The indices of a max pool, for autograd to keep: only a second derivative reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from regrow.ops import lanes

from .deferred import ChannelAffine, Shape

_ops = torch.ops.regrow
_CPU = torch.device("cpu")


class MaximaIndices(torch.Tensor):
    """Indices of the largest pixels, found with torch's own pool when an operator reads them.

    The kernels' backward pass looks for the maxima again, so that none need be kept.
    """

    @staticmethod
    def __new__(cls, size, *_) -> MaximaIndices:
        return torch.Tensor._make_wrapper_subclass(cls, torch.Size(size), dtype=torch.int64, device=_CPU)

    def __init__(self, size, pool: Callable, affine: ChannelAffine, shape: Shape, arguments: tuple[Any, ...]):
        self._pool, self._affine, self._shape, self._arguments = pool, affine, shape, arguments

    def found(self) -> Tensor:
        """The indices as an ordinary tensor."""
        data = self._affine.compute(self._shape)
        pixels = _ops.from_blocked.default(data, self._shape, lanes(data.dtype))
        _, indices = self._pool(pixels, *self._arguments)
        return indices

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[override]
        found: dict[int, Tensor] = {}

        def ordinary(value):
            if not isinstance(value, MaximaIndices):
                return value
            if id(value) not in found:
                found[id(value)] = value.found()
            return found[id(value)]

        return func(*tree_map(ordinary, args), **tree_map(ordinary, kwargs or {}))

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
