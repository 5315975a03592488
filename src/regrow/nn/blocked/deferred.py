"""The content of a BlockedTensor: blocked data, or how to compute them.

A BatchNorm is an affine map of each channel, and so is the relu behind it; nothing is computed until a convolution
wants the data, or a max pool reads through the map. Gradients go back the same way. So BatchNorm, relu and
pool read the convolution's output once and write once, forward and backward.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import torch
from torch import Tensor

from regrow.ops import blocked_size, lanes
from regrow.ops._windows import Windows

_ops = torch.ops.regrow
Shape = list[int]


class ChannelAffine(NamedTuple):
    """max(scale * (x - center) + shift + residual, 0 if relu): x and residual blocked data, the others (C,) or None."""

    x: Tensor
    scale: Tensor | None = None
    center: Tensor | None = None
    shift: Tensor | None = None
    residual: Tensor | None = None
    relu: bool = False

    def compute(self, shape: Shape) -> Tensor:
        plain = self.scale is None and self.residual is None and not self.relu
        if plain:
            return self.x
        return _ops.blocked_affine.default(self.x, *self.terms, self.residual, self.relu, shape, lanes(self.x.dtype))

    @property
    def terms(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Scale, center and shift, as operators take them."""
        return self.scale, self.center, self.shift


class Upstream(NamedTuple):
    """The gradient of a relu's input or a max pool's input, from that of the output.

    Attributes:
        grad: blocked gradient behind relu and pool.
        affine: the value that the relu or the pool saw; without residual.
        gated: whether the relu of `affine` is on the way.
        windows: those of the pool, or None.
        pooled: the deferred value that the pool read.
    """

    grad: Tensor
    affine: ChannelAffine
    gated: bool
    windows: Windows | None = None
    pooled: DeferredValue | None = None

    def compute(self, shape: Shape) -> Tensor:
        affine, width = self.affine, lanes(self.grad.dtype)
        if self.windows is None:
            return _ops.blocked_relu_backward.default(self.grad, affine.x, *affine.terms, shape, width)
        table, out = self.windows
        value = (affine.x, *affine.terms, affine.relu)
        return _ops.blocked_max_pool_backward.default(self.grad, *value, self.gated, table, out, shape, width)


class Spread(NamedTuple):
    """The gradient of an average pool's input, times `factor`."""

    grad: Tensor
    windows: Windows
    factor: float = 1.0

    def compute(self, shape: Shape) -> Tensor:
        table, out = self.windows
        grad = self.grad if self.factor == 1 else self.grad * self.factor
        return _ops.blocked_avg_pool_backward.default(grad, table, out, shape, lanes(grad.dtype))


class Noise(NamedTuple):
    """Dropout's noise: `factor` or, with probability `p`, 0; drawn from the seed wherever it is met."""

    seed: int
    p: float
    factor: float
    dtype: torch.dtype

    def drop(self, affine: ChannelAffine, shape: Shape) -> Tensor:
        """The value times the noise, as blocked data; without residual."""
        return _ops.blocked_dropout.default(
            *(affine.x, *affine.terms, affine.relu, self.seed, self.p, self.factor, shape, lanes(self.dtype))
        )

    def compute(self, shape: Shape) -> Tensor:
        ones = _ops.to_blocked.default(torch.ones(shape, dtype=self.dtype), lanes(self.dtype))
        return self.drop(ChannelAffine(ones), shape)


class Zeros(NamedTuple):
    """All zero."""

    dtype: torch.dtype

    def compute(self, shape: Shape) -> Tensor:
        return torch.zeros(blocked_size(shape, lanes(self.dtype)), dtype=self.dtype)


Pending = ChannelAffine | Upstream | Spread | Noise | Zeros


class DeferredValue:
    """The content of a BlockedTensor, shared by its aliases.

    Blocked data are never written to once they are in a deferred value: an in-place operator puts something else in. So
    whoever took data out keeps what it saw.
    """

    __slots__ = ("_data", "_lent", "_origin", "dtype", "pending", "shape")

    def __init__(self, shape: Shape, content: Tensor | Pending, dtype: torch.dtype):
        self.shape, self.dtype = shape, dtype
        self._lent: list[tuple[weakref.ref[Tensor], int]] = []
        self.put(content)

    def put(self, content: Tensor | Pending) -> None:
        """Replace what it holds."""
        self._refuse_views()
        self._origin: tuple[weakref.ref[Tensor], ChannelAffine] | None = None
        self._data = content if isinstance(content, Tensor) else None
        self.pending = None if isinstance(content, Tensor) else content

    def take(self, other: DeferredValue) -> None:
        """Put in what the other one holds."""
        self._refuse_views()
        self._data, self._origin, self.pending = other._data, other._origin, other.pending

    def lend(self, ordinary: Tensor) -> None:
        """Remember an ordinary copy for as long as somebody holds a view of it, see `check`."""
        self._lent = [*self._alive(), (weakref.ref(ordinary), ordinary._version)]

    def take_back(self, ordinary: Tensor | None) -> None:
        """Forget that copy."""
        self._lent = [entry for entry in self._lent if entry[0]() is not ordinary]

    def _alive(self) -> list[tuple[weakref.ref[Tensor], int]]:
        return [entry for entry in self._lent if entry[0]() is not None]

    def _refuse_views(self) -> None:
        """Raise if somebody holds a view: that of an ordinary tensor would show what is written now."""
        if self._alive():
            raise RuntimeError(
                f"a blocked activation {tuple(self.shape)} is written to in place while a view of it exists; take the "
                "view of x.dense() instead, which is an ordinary tensor, or delete the view first"
            )

    def check(self) -> None:
        """Raise if a view of an ordinary copy was written to: an ordinary tensor would have changed too."""
        for reference, version in self._lent:
            ordinary = reference()
            if ordinary is not None and ordinary._version != version:
                raise RuntimeError(
                    f"a view of a blocked activation {tuple(self.shape)} was written to, and the activation is used "
                    "again; take the view of x.dense() instead, which is an ordinary tensor"
                )

    def data(self) -> Tensor:
        """The blocked data, computed now if they were not yet."""
        if self._data is None:
            assert self.pending is not None
            self._data = self.pending.compute(self.shape)
            if isinstance(self.pending, ChannelAffine) and self.pending.residual is None:
                # Backward may read x again; but it is not for this object to keep it in memory.
                self._origin = weakref.ref(self.pending.x), self.pending._replace(x=self._data)
            self.pending = None
        return self._data

    def affine(self) -> ChannelAffine:
        """The value as an affine map, without residual, of what a BatchNorm read, or of the data if that is gone."""
        if isinstance(self.pending, ChannelAffine) and self.pending.residual is None:
            return self.pending
        data = self.data()
        x = self._origin[0]() if self._origin else None
        return ChannelAffine(data) if x is None else self._origin[1]._replace(x=x)  # type: ignore[index]

    def summand(self) -> ChannelAffine:
        """The value as an affine map to which a residual can be added."""
        pending = self.pending
        free = isinstance(pending, ChannelAffine) and pending.residual is None and not pending.relu
        return pending if free else ChannelAffine(self.data())  # type: ignore[return-value]

    def rectified(self) -> ChannelAffine:
        """The relu of the value, as an affine map."""
        return (self.pending if isinstance(self.pending, ChannelAffine) else ChannelAffine(self.data()))._replace(
            relu=True
        )
