"""Compressed weights by the rows of the dense weight, for functions that would treat each weight as a row.

The parameter is (active, 1). Adaptive clipping by unit then clips weight by weight, and gradient centralisation takes
each gradient from itself. On dense weights both work by rows, so that masked and compressed training would come apart
without a word. Clipping can be told from its result, and is done again by rows; centralisation leaves nothing.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regrow.weights import SparseWeight, hook_gradients

__all__ = ["RowWatch", "clip_by_rows", "norm_of_groups", "scaled_down"]

_STEPS = 20
"""Number of first steps to watch: what a training loop does to gradients, it does from the beginning."""
_FEWEST = 4
_LARGE = 0.01
"""Weights above this are above the smallest norm that adaptive clipping knows, `_EPS`."""
_EPS = 1e-3
_TINY = 1e-6
"""Norms of gradients are divided by at least this."""


def norm_of_groups(values: Tensor, groups: Tensor, count: int, kind: float) -> Tensor:
    """The norm of the values of each group, shape (count,); 0 for a group without any."""
    empty = values.new_zeros(count)
    if math.isinf(kind):
        return empty.scatter_reduce(0, groups, values.abs(), "amax")
    return empty.index_add(0, groups, values.abs() ** kind) ** (1 / kind)


def clip_by_rows(weight: SparseWeight, gradient: Tensor, factor: float, eps: float, kind: float = 2.0) -> Tensor:
    """The gradient of a compressed weight, (active, 1), with each row of it at most factor * max(|row|, eps)."""
    rows = weight.rows
    own, norm = (
        norm_of_groups(tensor.reshape(-1), rows, weight.shape[0], kind)[rows].view_as(gradient)
        for tensor in (weight.parameter.detach(), gradient)
    )
    return scaled_down(gradient, norm, own.clamp(min=eps) * factor)


def scaled_down(gradient: Tensor, norm: Tensor, largest: Tensor) -> Tensor:
    """The gradient with norms of at most `largest`; both broadcast against it."""
    return gradient.where(norm < largest, gradient * (largest / norm.clamp(min=_TINY)))


class RowWatch:
    """Watches the rows of all compressed weights of a model in its first steps; for good, if clipping was adaptive.

    Args:
        weights: the sparse weights that an optimizer trains, by name.
    """

    def __init__(self, weights: Mapping[str, SparseWeight]):
        self._weights = {name: weight for name, weight in weights.items() if not weight.keeps_parameter_shape}
        self._left = _STEPS
        self._factor: float | None = None
        self._came: dict[str, Tensor] = {}
        self._handles = [self._listen(name, weight) for name, weight in self._weights.items()]

    def _listen(self, name: str, weight: SparseWeight) -> Any:
        this = weakref.ref(self)  # a cycle that runs through a parameter's hook would never be collected

        def hook(parameter: Tensor) -> None:
            if (alive := this()) is not None and parameter.grad is not None:
                alive._came[name] = parameter.grad.detach().clone()

        return hook_gradients(weight.parameter, hook)

    def __getstate__(self) -> dict[str, Any]:
        """Without hooks, which are not copied; the updater of a copy makes one of its own."""
        return self.__dict__ | {"_handles": [], "_came": {}}

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._came = [], {}

    @torch.no_grad()
    def check(self) -> None:
        """Called when gradients are final.

        Raises:
            RuntimeError: they are all 0 by now; no weight has been changed yet.
        """
        if not self._handles:
            return
        pairs = {
            name: (self._came[name], gradient)
            for name, weight in self._weights.items()
            if name in self._came
            and (gradient := weight.parameter.grad) is not None
            and gradient.shape == self._came[name].shape
        }
        self._came = {}
        self._refuse_centralised(pairs)
        self._clip_again(pairs)
        self._left -= 1
        if self._left <= 0 and self._factor is None:
            self.close()

    @staticmethod
    def _refuse_centralised(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        if pairs and all(came.any() and not now.any() for came, now in pairs.values()):
            raise RuntimeError(
                f"the gradients of {', '.join(pairs)} are all 0 now, but were not after backward(). Gradient "
                "centralisation does this: it subtracts row means, and sees compressed weights as rows of one. "
                "Use storage='masked' with it. Or zero_grad() ran between backward() and step(): call it elsewhere"
            )

    def _clip_again(self, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Clips by rows where gradients were clipped weight by weight."""
        changed = {n: (came, now) for n, (came, now) in pairs.items() if not torch.equal(came, now)}
        found = [_clip_factor(came, now, self._weights[n].parameter) for n, (came, now) in changed.items()]
        factors = [factor for factor in found if factor is not None]
        if not factors:
            return
        if self._factor is None:
            warnings.warn(
                "gradients of compressed weights were clipped weight by weight, as functions for adaptive clipping do "
                "with parameters (active, 1); they are now clipped by the rows of the dense weights, as in "
                "regrow.integrations.clipping.adaptive_clip_grad_",
                stacklevel=2,
            )
        self._factor = factors[0]
        for name, (came, now) in changed.items():
            now.copy_(clip_by_rows(self._weights[name], came, self._factor, _EPS))


def _clip_factor(came: Tensor, now: Tensor, values: Tensor) -> float | None:
    """|g| / |w| where the gradient g of large weights w became smaller, if it is one number, and was not before."""
    changed = (now.abs() < came.abs()) & (values.abs() > _LARGE) & (now != 0)
    if int(changed.sum()) < _FEWEST:
        return None
    before, after = ((g.abs() / values.abs())[changed] for g in (came, now))
    return float(after.double().median()) if _spread(after) < 1e-4 and _spread(before) > 1e-2 else None


def _spread(ratios: Tensor) -> float:
    return float(ratios.max() / ratios.min()) - 1
