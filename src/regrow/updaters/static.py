"""Static sparse training: the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .base import Updater

__all__ = ["Static"]


class Static(Updater):
    """Keeps the topology fixed, and inactive weights exactly 0: the baseline of static sparse training.

    Works with any optimizer. Has the interface of `ComposedUpdater`; `update()` does nothing.

    Args:
        model: a model from `sparsify`.
        optimizer: any that trains all sparse weights of the model.

    Example:
        >>> updater = regrow.Static(model, torch.optim.SGD(model.parameters(), lr=0.1))
    """

    method = "static"

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        super().__init__(model, optimizer, alone=False)
        self._hang()

    def expect_update(self, after: int) -> None:
        """Changes nothing.

        Args:
            after: optimizer steps until then.
        """

    def update(self) -> list[dict[str, Any]]:
        """Changes nothing."""
        return []

    def state_dict(self) -> dict[str, Any]:
        return self._origin() | {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state_dict()`.

        Args:
            state: result of `state_dict`.

        Raises:
            ValueError: the state is that of another model or method; nothing is changed.
        """
        if state.keys() > {"step"}:  # else of the first format
            self._check_origin(state, {"step"})
        self.step = state["step"]
