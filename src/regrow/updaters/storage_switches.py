"""Weights that become compressed while an updater trains them, once they are sparse; see `weights.switching`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from regrow.distributed import GradientMean
from regrow.optimizers.entering import state_of
from regrow.optimizers.hooks import keeps_history, restart_history
from regrow.weights import SparseWeight, Switch, change_storage, sparse_weights, storage_due
from regrow.weights.base import per_element_state

__all__ = ["StorageSwitches"]


class StorageSwitches:
    """The weights of a model that change their storage.

    Args:
        model: whose layers are replaced.
        rules: when, by name.

    Attributes:
        rules: as given, without weights that turn out to be bound to their storage.
    """

    def __init__(self, model: nn.Module, rules: dict[str, Switch]):
        self._model, self.rules = model, rules
        self._strides: dict[str, tuple[int, ...]] = {}

    @classmethod
    def of(cls, model: nn.Module, weights: Mapping[str, SparseWeight]) -> StorageSwitches | None:
        """Those of a model; None where no weight changes its storage."""
        rules = {name: weight.switch for name, weight in weights.items() if weight.switch is not None}
        return cls(model, rules) if rules else None

    def due(self, weights: Mapping[str, SparseWeight]) -> dict[str, str]:
        """Returns the new storage, by name, of weights whose density asks for another than they have."""
        wanted = {name: storage_due(weights[name], switch) for name, switch in self.rules.items()}
        return {name: storage for name, storage in wanted.items() if storage != weights[name].storage}

    def state(self, weights: Mapping[str, SparseWeight]) -> dict[str, str]:
        """Returns the storage of each weight that changes it, for checkpoints."""
        return {name: weights[name].storage for name in self.rules}

    def change(self, weights: dict[str, SparseWeight], storages: Mapping[str, str], optimizers: Sequence[Any]) -> None:
        """Gives weights another storage, and replaces them in `weights`.

        Args:
            storages: the new storage of each, by name.
            optimizers: as `nested` has them, the innermost last; their state follows.
        """
        state = {
            name: per_element_state(weights[name].parameter, state_of(optimizers, weights[name])).values()
            for name in storages
        }
        goes_stale = keeps_history(optimizers[-1])
        refused = change_storage(self._model, storages, self.rules, self._strides, state)
        found = sparse_weights(self._model)
        weights.update({name: found[name] for name in weights})
        GradientMean.follow(self._model, weights)
        if goes_stale:
            restart_history(optimizers[-1])
        for name, reason in refused.items():
            del self.rules[name]
            warnings.warn(f"{name} stays masked, because {reason}; the others become compressed", stacklevel=2)
