"""Finds the sparse weights of a model and their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from .base import SparseWeight
from .masked import adopt_masks
from .storage import STORAGES, Storage

__all__ = ["Places", "plain_name", "sparse_weights", "unwrapped"]

_WRAPPERS = {"_orig_mod", "_forward_module", "_original_module", "_checkpoint_wrapped_module"}


def sparse_weights(model: nn.Module) -> dict[str, SparseWeight]:
    """The sparse weights of a model by parameter name, in the order of its modules; empty for a dense model.

    Wrappers (torch.compile, Lightning Fabric, DistributedDataParallel) do not change the names.

    Args:
        model: sparse or dense, inside wrappers or not.

    Example:
        >>> model = regrow.sparsify(torch.nn.Linear(20, 10), density=0.1)
        >>> weight = regrow.sparse_weights(model)["weight"]
        >>> weight.active, weight.indices.shape, weight.values.shape
        (20, torch.Size([20]), torch.Size([20]))
    """
    weights: dict[str, SparseWeight] = {}
    adopt_masks(unwrapped(model).modules())
    for path, module in unwrapped(model).named_modules():
        for storage, attribute in _kept(module):
            name = plain_name(f"{path}.{attribute}" if path else attribute)
            if name not in weights:
                weights[name] = storage.weight(name, module, attribute)
    return weights


class Places:
    """Duplicate entries of a state dict: those of modules and parameters that stand in several places, as tied
    encoders and embeddings do. `sparse_weights` knows the first place of each.

    Example:
        >>> encoder = torch.nn.Linear(3, 3)
        >>> Places(torch.nn.ModuleDict({"encoder": encoder, "decoder": encoder})).again("decoder.weight")
        True
    """

    def __init__(self, model: nn.Module):
        root = unwrapped(model)
        self._modules = _further(root.named_modules(remove_duplicate=False))
        self._parameters = _further(root.named_parameters(remove_duplicate=False))

    def again(self, name: str) -> bool:
        """Returns whether an entry is there under another name before."""
        return name in self._parameters or name.rpartition(".")[0] in self._modules

    def filled(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A state with all entries, from one that has them once."""
        first = dict(self._parameters)
        for name in state:
            path, _, entry = name.rpartition(".")
            first |= {f"{again}.{entry}": name for again, one in self._modules.items() if one == path}
        return {name: state[one] for name, one in first.items() if one in state} | dict(state)


def _further(named: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Returns each further name of what has several, with the first."""
    first: dict[int, str] = {}
    known = [(plain_name(name), first.setdefault(id(one), plain_name(name))) for name, one in named]
    return {name: one for name, one in known if name != one}


def _kept(module: nn.Module) -> Iterator[tuple[Storage, str]]:
    """The sparse parameters of a module, and the storage of each; special storages are asked before general ones."""
    seen: set[str] = set()
    for storage in STORAGES.values():
        for attribute in storage.attributes(module):
            if attribute not in seen:
                seen.add(attribute)
                yield storage, attribute


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's model inside DistributedDataParallel, DataParallel, torch.compile and Lightning Fabric."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", getattr(model, "_forward_module", None)), nn.Module):
            model = inner
        else:
            return model


def plain_name(name: str) -> str:
    """A parameter's name without the prefixes that wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
