"""GradientTap: where a collector gets the gradient of all positions of one weight; its storage makes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from .staged import StagedGradient

__all__ = ["GradientListener", "GradientTap"]

GradientListener = Callable[[Tensor], None]
"""A bound method, called with the parameter's .grad each time it has been accumulated, before inactive entries are
zeroed."""


class GradientTap(ABC):
    """Calls a listener at each gradient of one weight, and stages the gradient of all positions while it collects.

    A weight has one tap at a time: a new one replaces the one before.

    Attributes:
        writes_after_listener: how often the storage itself writes to .grad after the listener has seen it.
        averaged: whether the listener sees means over ranks; if not, it sees what its own rank has.
        keeps_pairs: whether to stage inputs and gradients of outputs instead of a gradient of all positions, in storage
            that would have to compute that, and the activity of the layer in all storages. Set before collecting.
        winograd: whether storage that has to compute a gradient of all positions may do so by Winograd's algorithm.
    """

    writes_after_listener = 0
    averaged = False
    keeps_pairs = False
    winograd = False

    @property
    @abstractmethod
    def collecting(self) -> bool:
        """Returns whether gradients of all positions are staged."""

    @abstractmethod
    def collect(self, on: bool) -> None:
        """Starts or stops staging; compressed storage computes dense gradients only while it is on."""

    @abstractmethod
    def close(self) -> None:
        """Calls the listener no more."""

    @abstractmethod
    def new_moment(self) -> Tensor:
        """Zeros of the dense shape, as far as this process holds it."""

    @abstractmethod
    def stage(self, staged: StagedGradient | None, gradient: Tensor, more: bool) -> StagedGradient | None:
        """Returns the gradient of all positions, inactive ones included; None where it is not known.

        Args:
            staged: result of the last call, to be reused.
            gradient: the parameter's .grad, which the listener was called with.
            more: whether `staged` holds earlier micro-batches of the same step, to which this one is added.
        """

    def stage_by_hand(self, gradient: Tensor) -> StagedGradient | None:
        """Returns the gradient of all positions from a .grad that no backward pass has made; None if it is not known.

        What is inactive becomes 0 in `gradient`, as it does behind a backward pass.
        """
        return None

    def knows_all(self, staged: StagedGradient) -> bool:
        """Returns whether the gradient staged by hand has non-zero entries at inactive weights, or there are none."""
        return False

    @abstractmethod
    def remembered(self, staged: StagedGradient, gradient: Tensor) -> Tensor:
        """Returns the gradient as it is now, of .grad's shape, to be compared later; only active entries count."""

    def need(self, positions: int) -> None:  # noqa: B027 (most storages keep no such account)
        """Sets how many positions, active ones included, the listener uses gradients of, to count FLOPs."""
