"""Storage: how a sparse weight is kept, as a type. `STORAGES` has them all; a new one is a file and `register`.

The rule by which "auto" chooses is fixed and the same on every machine, so that a run does not depend on where it was
started.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from .base import SparseWeight

__all__ = ["STORAGES", "Storage", "check_storage", "choose", "register", "replace_module"]


class Storage(ABC):
    """A way to keep sparse weights: which modules it serves, how it takes hold of one, and how it lets go.

    Attributes:
        name: the public name, as in `sparsify(storage="compressed")`.
        densest_by_itself: density up to which "auto" chooses it, 0 to 1.
        makes_from_meta: whether it gives modules on the meta device their active weights alone.
    """

    name: str
    densest_by_itself = 0.0
    makes_from_meta = False

    @abstractmethod
    def refuses(self, module: nn.Module, parameter: nn.Parameter, elsewhere: Mapping[int, str]) -> str | None:
        """Returns why it cannot keep a parameter, in a few words; None where it can.

        Args:
            module: which holds the parameter.
            parameter: dense.
            elsewhere: who else uses a parameter or a module, by its id (see `readers.used_elsewhere`).
        """

    @abstractmethod
    def attach(self, model: nn.Module, module: nn.Module, attribute: str, indices: Tensor, why: str) -> nn.Module:
        """Makes a dense parameter sparse, and returns the model (another one where the root was replaced).

        Args:
            model: whose part the module is.
            module: which holds the parameter.
            attribute: name of the parameter in the module.
            indices: active ones, flat and row-major, int64, shape (active,), ascending.
            why: the reason for the storage, for the summary.
        """

    @abstractmethod
    def densify(self, model: nn.Module, weight: SparseWeight) -> nn.Module:
        """Makes a sparse weight dense again, with the values that it has, and returns the model."""

    @abstractmethod
    def attributes(self, module: nn.Module) -> Iterable[str]:
        """The parameters of a module that it keeps."""

    @abstractmethod
    def weight(self, name: str, module: nn.Module, attribute: str) -> SparseWeight:
        """The sparse weight that it keeps under an attribute of a module; `name` is that in the model."""

    @abstractmethod
    def state_keys(self, name: str) -> tuple[str, ...]:
        """Entries that a state dict may hold beside a weight's values, by full names."""

    @abstractmethod
    def indices_in(self, state: Mapping[str, Any], name: str) -> Tensor | None:
        """The active set of a weight in a state dict, as indices or as a mask; None where it is of another storage."""

    @abstractmethod
    def state_of(self, name: str, values: Tensor, indices: Tensor, shape: Iterable[int]) -> dict[str, Tensor]:
        """The entries of a state dict for active values (active,) at indices (active,) of a dense shape."""

    def finish(self, model: nn.Module) -> None:  # noqa: B027 (most storages have nothing to do for a whole model)
        """Called once all weights of a model are sparse."""

    def leave(self, model: nn.Module) -> None:  # noqa: B027
        """Called once all weights of a model are dense again."""


STORAGES: dict[str, Storage] = {}
"""All storages by name, in the order in which "auto" asks them; the last one serves everything."""


def register(storage: Storage) -> None:
    """Adds a storage; those that "auto" chooses up to a smaller density are asked first."""
    STORAGES[storage.name] = storage
    ordered = sorted(STORAGES.values(), key=lambda one: one.densest_by_itself)
    STORAGES.clear()
    STORAGES.update({one.name: one for one in ordered})


def check_storage(storage: str) -> None:
    """Raises ValueError where there is no such storage."""
    if storage != "auto" and storage not in STORAGES:
        *others, last = ["'auto'", *(f"{name!r}" for name in reversed(STORAGES))]
        raise ValueError(f"storage={storage!r} is unknown; use {', '.join(others)} or {last}")


def choose(
    storage: str, module: nn.Module, parameter: nn.Parameter, active: int, elsewhere: Mapping[int, str]
) -> tuple[Storage, str]:
    """Returns the storage of one weight, and why it is this one.

    Args:
        storage: the requested storage: a name, or "auto".
        module: which holds the parameter.
        parameter: dense.
        active: its number of active weights.
        elsewhere: see `Storage.refuses`.
    """
    *special, general = (one for one in STORAGES.values() if one.densest_by_itself)
    if storage == general.name:
        return general, f"{storage} was asked for"
    asked = special if storage == "auto" else [STORAGES[storage]]
    reason = ""
    for one in asked:
        reason = one.refuses(module, parameter, elsewhere) or ""
        if not reason and storage == "auto" and active > math.ceil(one.densest_by_itself * parameter.numel()):
            reason = f"density above {one.densest_by_itself:.0%}"
        if not reason:
            return one, "auto" if storage == "auto" else f"{storage} was asked for"
    return general, reason


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Replaces `old` by `new` in the model, and returns the model, or `new` if `old` is the model itself."""
    if model is old:
        return new
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
    return model
