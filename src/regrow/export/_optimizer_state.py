"""The state of an optimizer by parameter names, of active weights alone: independent of storage and of the order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regrow.weights import plain_name, sparse_weights, unwrapped
from regrow.weights.base import per_element_state

from ._positions import spread

__all__ = ["pack_optimizer", "unpack_optimizer"]


def _names_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    """The names of the parameters of each group.

    Raises:
        ValueError: the optimizer holds a parameter that the model does not have.
    """
    names = {id(parameter): plain_name(name) for name, parameter in unwrapped(model).named_parameters()}
    if strangers := sum(id(p) not in names for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            f"{strangers} parameters of the optimizer do not belong to the model; make the optimizer from the "
            "parameters of the model that sparsify or load returned"
        )
    return [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]


def pack_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Plain values that JSON can hold, and tensors by "parameter name/state name".

    Raises:
        ValueError: an optimizer of another model, state of inactive weights that is not 0, or settings that JSON cannot
            hold.
    """
    weights, names = sparse_weights(model), _names_of(model, optimizer)
    plain, tensors, of_active = {}, {}, []
    for name, parameter in _flat(names, [group["params"] for group in optimizer.param_groups]):
        state = optimizer.state.get(parameter, {})
        own = per_element_state(parameter, state) if name in weights else {}
        for key, value in state.items():
            path = f"{name}/{key}"
            if key in own:
                tensors[path] = weights[name].take(value)
                of_active.append(path)
                _refuse_hidden(path, value, tensors[path])
            elif isinstance(value, Tensor):
                tensors[path] = value
            else:
                plain[path] = value
    groups = [
        {key: value for key, value in group.items() if key != "params"} | {"params": members}
        for group, members in zip(optimizer.param_groups, names, strict=True)
    ]
    about = {"groups": groups, "plain": plain, "active": of_active}
    try:
        return json.loads(json.dumps(about)), tensors
    except TypeError as error:
        raise ValueError(f"an optimizer setting is not a plain value ({error}); make it a number") from error


def unpack_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, about: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    """A state dict for an optimizer of the model, from what `pack_optimizer` gave.

    Raises:
        ValueError: the optimizer holds other parameters, or holds them in other groups.
    """
    weights, names = sparse_weights(model), _names_of(model, optimizer)
    theirs = [group["params"] for group in about["groups"]]
    if names != theirs:
        raise ValueError(f"the optimizer has parameter groups {names}, but {theirs} were saved; use the same groups")
    order = [name for group in names for name in group]
    state: dict[int, dict[str, Any]] = {}
    for path, value in (*about["plain"].items(), *tensors.items()):
        name, _, key = path.rpartition("/")
        if path in about["active"]:
            weight = weights[name]
            if weight.keeps_parameter_shape:
                value = spread(value, weight.indices.cpu(), weight.shape)
            else:
                value = value.view(-1, 1)
        state.setdefault(order.index(name), {})[key] = value
    groups = [{**group, "params": [order.index(name) for name in group["params"]]} for group in about["groups"]]
    return {"state": state, "param_groups": groups}


def _flat(names: list[list[str]], parameters: list[list[Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yields each parameter with its name, group after group."""
    for of_group, members in zip(names, parameters, strict=True):
        yield from zip(of_group, members, strict=True)


def _refuse_hidden(path: str, value: Tensor, active: Tensor) -> None:
    if torch.count_nonzero(active) != torch.count_nonzero(value):
        raise ValueError(
            f"the optimizer's {path} is not 0 where weights are inactive, which a sparse file does not hold; methods "
            "with shadow weights can only resume from their checkpoints"
        )
