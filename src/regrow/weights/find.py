"""Where the sparse weights of a model are, and what they are called."""

from __future__ import annotations

from torch import nn

from regrow.nn import SparseLayer

from .base import SparseWeight, is_sharded
from .compressed import CompressedWeight
from .masked import MARK, MaskedWeight
from .sharded import ShardedWeight

__all__ = ["further_paths", "module_path", "plain_name", "sparse_weights", "unwrapped"]

_WRAPPERS = {"_orig_mod", "_forward_module", "_original_module", "_checkpoint_wrapped_module"}


def sparse_weights(model: nn.Module) -> dict[str, SparseWeight]:
    """The sparse weights of a model by parameter name, in the order of its modules; empty for a dense model.

    Wrappers (torch.compile, Lightning Fabric, DistributedDataParallel) do not change the names.

    Example:
        >>> model = regrow.sparsify(torch.nn.Linear(20, 10), density=0.1)
        >>> weight = regrow.sparse_weights(model)["weight"]
        >>> weight.active, weight.indices.shape, weight.values.shape
        (20, torch.Size([20]), torch.Size([20]))
    """
    weights: dict[str, SparseWeight] = {}
    for path, module in unwrapped(model).named_modules():
        for attribute in ["weight"] if isinstance(module, SparseLayer) else module.__dict__.get(MARK, {}):
            name = plain_name(f"{path}.{attribute}" if path else attribute)
            if name not in weights:
                weights[name] = _weight(name, module, attribute)
    return weights


def further_paths(model: nn.Module) -> dict[str, str]:
    """Of modules that stand in several places, as tied encoders do: each further path, and the first one.

    A state dict has their entries once for each path; `sparse_weights` knows the first.
    """
    first: dict[int, str] = {}
    further = {}
    for path, module in unwrapped(model).named_modules(remove_duplicate=False):
        path = plain_name(path)
        if first.setdefault(id(module), path) != path:
            further[path] = first[id(module)]
    return further


def module_path(name: str) -> str:
    """The path of the module that holds a parameter or a buffer."""
    return name.rpartition(".")[0]


def _weight(name: str, module: nn.Module, attribute: str) -> SparseWeight:
    if isinstance(module, SparseLayer):
        return CompressedWeight(name, module)
    kind = ShardedWeight if is_sharded(module._buffers[f"{attribute}_mask"]) else MaskedWeight
    return kind(name, module, attribute)


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
