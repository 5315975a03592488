"""Notices that an optimizer that the updater does not know steps the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.weights import SparseWeight

__all__ = ["StepWatch"]

_SAMPLE = 16
_FEWEST = 20


class StepWatch:
    """Counts gradients that arrive while no optimizer step is seen, and then looks whether the weight has changed.

    Args:
        every: optimizer steps between updates; None where they are made by hand.
    """

    def __init__(self, every: int | None):
        self._limit = max(2 * (every or 0), _FEWEST)
        self._values: Tensor | None = None
        self.reset()

    def reset(self) -> None:
        """Notes that a step was seen or is running."""
        self._count = 0

    def arrived(self, weight: SparseWeight) -> None:
        """A gradient has arrived.

        Raises:
            RuntimeError: two updates should have come by now, and weights change, but no step is seen.
        """
        self._count += 1
        if self._count == self._limit // 2:
            self._values = self._sample(weight)
        elif self._count >= self._limit:
            self._count = 0
            if self._values is not None and not torch.equal(self._values, self._sample(weight)):
                raise RuntimeError(
                    f"{weight.name} has had {self._limit} gradients and its values have changed, but the updater has "
                    "seen no step of its optimizer, so the topology would never change. Make the updater with the "
                    "optimizer whose step() you call. If a wrapper has its own step methods, use the optimizer "
                    "inside it; if you made several optimizers, use the last one"
                )

    def _sample(self, weight: SparseWeight) -> Tensor:
        return weight.parameter.detach().take(weight.sample(_SAMPLE))
