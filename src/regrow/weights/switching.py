"""Weights that change their storage while they train: masked while they are dense, compressed once they are sparse.

The parameter stays the same object and takes another shape, as it takes another length at a topology update. So
optimizers, their wrappers and lists of parameters keep it, and only tensors that hold one number for each of its
elements have to be changed with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .base import SparseWeight, Switch, put
from .compressed import CompressedStorage, CompressedWeight
from .extras import hand_over
from .find import sparse_weights, unwrapped
from .gradient_mask import MARK
from .masked import MaskedWeight, mask_parameter, unmask_parameter
from .readers import used_elsewhere
from .storage import STORAGES, replace_module

__all__ = ["change_storage", "follow_state", "keep_switch", "storage_due"]

_MASKED, _COMPRESSED = "masked", CompressedStorage.name

_DENSE = 0.5
"""Above this density, or its own limit if that is more, a compressed weight is masked again, as in the dense phases of
AC/DC. Between the two it keeps the storage that it has, so that small changes of density cause no switch."""


def keep_switch(module: nn.Module, attribute: str, switch: Switch) -> None:
    """Notes when a masked weight becomes compressed."""
    module.__dict__[MARK][attribute].switch = switch


def storage_due(weight: SparseWeight, switch: Switch) -> str:
    """Returns the name of the storage that a weight shall have at its present density."""
    if switch.allows(weight.active, weight.numel):
        return _COMPRESSED
    return _MASKED if weight.density > max(_DENSE, switch.below) else weight.storage


@torch.no_grad()
def change_storage(
    model: nn.Module,
    storages: Mapping[str, str],
    switches: Mapping[str, Switch],
    strides: dict[str, tuple[int, ...]],
    state: Mapping[str, Iterable[Tensor]] | None = None,
) -> dict[str, str]:
    """Gives weights of a model another storage, masked or compressed, in place; their gradients are dropped.

    Args:
        model: sparse, inside wrappers or not.
        storages: the new storage of each weight, by name; it has the other one now.
        switches: of each of these weights.
        strides: of dense parameters, by name: kept for weights that become compressed, used for those that come back.
        state: tensors of a parameter's shape that change with it, such as its optimizer state.

    Returns:
        Why a weight stays as it is, by its name, where something that came onto its layer since `sparsify` would be
        lost.
    """
    weights, refused = sparse_weights(model), {}
    elsewhere = used_elsewhere(unwrapped(model)) if _COMPRESSED in storages.values() else {}
    for name, storage in storages.items():
        weight, tensors = weights[name], list((state or {}).get(name, ()))
        weight.parameter.grad = None
        if storage == _COMPRESSED and isinstance(weight, MaskedWeight):
            strides[name] = weight.parameter.stride()
            if reason := _compress(model, weight, switches[name], elsewhere, tensors):
                refused[name] = reason
        elif storage == _MASKED and isinstance(weight, CompressedWeight):
            _mask(model, weight, switches[name], strides[name], tensors)
    STORAGES[_COMPRESSED].leave(unwrapped(model))
    STORAGES[_COMPRESSED].finish(unwrapped(model))
    return refused


def _compress(
    model: nn.Module, weight: MaskedWeight, switch: Switch, elsewhere: Mapping[int, str], state: list[Tensor]
) -> str | None:
    """Replaces a layer by a compressed one, or returns why not."""
    storage = STORAGES[_COMPRESSED]
    module, attribute, parameter = weight.module, weight.attribute, weight.parameter
    mask, indices, last_update = weight.mask, weight.indices, weight.last_update
    columns = [weight.take(tensor).view(-1, 1) for tensor in state]
    unmask_parameter(weight)
    if reason := storage.refuses(module, parameter, elsewhere):
        mask_parameter(module, attribute, mask, reason)
        keep_switch(module, attribute, switch)  # DistributedDataParallel leaves it to regrow for good
        weight.last_update = last_update
        return reason
    storage.attach(model, module, attribute, indices, f"density fell to {switch.below:.0%}")
    layer: Any = sparse_weights(model)[weight.name].module
    _refill(parameter, layer.weight.detach())
    layer.weight = parameter
    layer.tune, layer.tuned, layer.last_update = switch.tune, switch.tuned, last_update
    for tensor, column in zip(state, columns, strict=True):
        _refill(tensor, column)
    return None


def _mask(
    model: nn.Module, weight: CompressedWeight, switch: Switch, strides: tuple[int, ...], state: list[Tensor]
) -> None:
    """Replaces a compressed layer by a masked one, with the memory format that it had before."""
    layer, parameter, indices, shape = weight.module, weight.parameter, weight.indices, weight.shape
    last_update = weight.last_update
    switch.tuned = layer.tuned
    dense = layer.to_dense()
    dense.bias = layer.bias
    hand_over(layer, dense)
    replace_module(unwrapped(model), layer, dense)
    for tensor in (parameter, *state):
        whole = torch.empty_strided(shape, strides, dtype=tensor.dtype).zero_()
        put(whole, indices, tensor.detach().reshape(-1))
        _refill(tensor, whole)
    dense.weight = parameter
    mask = torch.zeros(shape, dtype=torch.bool)
    put(mask, indices, True)
    mask_parameter(dense, "weight", mask, switch.why)
    keep_switch(dense, "weight", switch)
    dense.__dict__[MARK]["weight"].last_update = last_update


def _refill(tensor: Tensor, content: Tensor) -> None:
    """Gives a tensor other memory, of another shape; it stays the same object."""
    tensor.set_(content)  # type: ignore[call-overload]


def follow_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gives weights that change their storage the one that they have in a state dict, before that is loaded.

    Args:
        model: sparse; nobody trains it yet.
        state: a state dict of a model of the same kind.
    """
    switches = {name: one.switch for name, one in sparse_weights(model).items() if one.switch is not None}
    compressed = STORAGES[_COMPRESSED]
    storages = {name: _COMPRESSED for name in switches if compressed.indices_in(state, name) is not None}
    if storages:
        change_storage(model, storages, switches, {})
