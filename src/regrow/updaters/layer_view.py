"""LayerView: the view of a layer for criteria (the form `criteria.Layer`), made at each update."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from regrow._renamed import renamed_property
from regrow.momentum.collector import MomentumCollector
from regrow.momentum.rules import LastGradient, momentum_of_state, optimizer_rule
from regrow.optimizers.hooks import group_of
from regrow.topology.lazy import LazyScores, ProductGradient
from regrow.weights import SparseWeight

__all__ = ["ActiveGradients", "LayerView", "is_finite"]


class LayerView:
    """One layer at an update, as criteria see it (see `criteria.Layer`): a snapshot taken before anything is pruned.

    Args:
        collector: the collector of inactive weights.
        gradient: the last step's gradient of the active weights, where that was kept.
    """

    def __init__(
        self,
        weight: SparseWeight,
        collector: MomentumCollector,
        optimizer: torch.optim.Optimizer,
        flops_per_weight: float,
        generator: torch.Generator,
        step: int = 0,
        gradient: Tensor | None = None,
    ):
        self.weight = weight
        self.collector = collector
        self.optimizer = optimizer
        self.group: Mapping[str, Any] = group_of(optimizer, weight)
        self.state = optimizer.state.get(weight.parameter, {})
        collector.sync(self.state, self.group)
        self.name = weight.name
        self.shape = weight.shape
        self.numel = weight.numel
        self.step = step
        self.learning_rate = float(self.group.get("lr", math.nan))
        self.indices = weight.indices
        self.values = weight.values
        self.flops_per_weight = flops_per_weight
        self.generator = generator
        self._gradient = gradient

    @property
    def active(self) -> int:
        return self.indices.numel()

    @cached_property
    def momentum(self) -> Tensor:
        rule = self.collector.rule
        if rule is None or rule is LastGradient:
            rule = optimizer_rule(self.optimizer, self.group, self.weight)
        return momentum_of_state(self.weight, self.state, self.group, rule)

    @property
    def gradient(self) -> Tensor:
        if self._gradient is not None:
            return self._gradient
        raise self._not_collected("gradient", "uses_gradient=True")

    @property
    def inactive_momentum(self) -> Tensor | LazyScores:
        """Made on request, so that it exists for one layer at a time."""
        if self.collector.rule is None or self.collector.rule is LastGradient:
            raise self._not_collected("inactive_momentum", 'collect="momentum"')
        return self.collector.scores(self.group)

    @property
    def inactive_gradient(self) -> Tensor | LazyScores:
        if self.collector.rule is not LastGradient or self.collector.sampled:
            raise self._not_collected("inactive_gradient", 'collect="gradient"')
        return self.collector.scores(self.group)

    @property
    def sampled_gradient(self) -> ProductGradient:
        if not self.collector.sampled:
            raise self._not_collected("sampled_gradient", 'collect="sampled-gradient"')
        return self.collector.sampled_gradient

    missing_momentum = renamed_property("missing_momentum", "inactive_momentum")
    missing_gradient = renamed_property("missing_gradient", "inactive_gradient")

    def _not_collected(self, what: str, remedy: str) -> RuntimeError:
        return RuntimeError(
            f"a criterion reads {what} of {self.name}, which was not collected; make the updater with "
            f"{remedy}, before the step that precedes the update"
        )

    def not_finite(self) -> list[str]:
        """Returns what of the layer is NaN or infinite, of what the updater collects."""
        parts: dict[str, Tensor | LazyScores | ProductGradient] = {}
        if self._gradient is not None:
            parts["gradient"] = self._gradient
        if self.collector.sampled:
            parts["gradient of inactive weights"] = self.sampled_gradient
        elif self.collector.rule is LastGradient:
            parts["gradient of inactive weights"] = self.inactive_gradient
        elif self.collector.rule is not None:
            parts |= {"momentum": self.momentum, "momentum of inactive weights": self.inactive_momentum}
        return [*self.not_finite_weights(), *(what for what, tensor in parts.items() if not is_finite(tensor))]

    def not_finite_weights(self) -> list[str]:
        """The weights, if one of them is NaN or infinite."""
        return [] if is_finite(self.values) else ["weights"]


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


def is_finite(tensor: Tensor | LazyScores | ProductGradient) -> bool:
    """Returns whether all are finite; isfinite itself would make two more tensors of this size."""
    if not isinstance(tensor, Tensor):
        return tensor.is_finite()
    return tensor.numel() == 0 or all(math.isfinite(float(end)) for end in torch.aminmax(tensor))
