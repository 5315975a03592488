"""The last step's gradient of the active weights, as the optimizer saw it, for criteria that ask for it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from regrow.weights import SparseWeight

__all__ = ["ActiveGradients"]


class ActiveGradients:
    """Copies the gradients of active weights in the step before an update; nothing of dense size.

    Optimizers may write into .grad while they step, and the training loop may have it zeroed before an update by hand.
    """

    def __init__(self, weights: Mapping[str, SparseWeight]):
        self._weights = weights
        self.values: dict[str, Tensor] = {}

    def note(self, unscale: float) -> None:
        """Called when gradients are final. unscale: what the optimizer itself multiplies them by."""
        for name, weight in self._weights.items():
            if weight.parameter.grad is not None:
                self.values[name] = weight.take(weight.parameter.grad.detach()) * unscale

    def drop(self) -> None:
        """Forgets them: the topology has changed."""
        self.values = {}

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.values)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.values = {name: value.to(self._weights[name].parameter.device).clone() for name, value in state.items()}
