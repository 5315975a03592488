"""Hooks and state of torch optimizers, as the updaters need them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from regrow.weights import SparseWeight, is_sharded, sparse_weights

__all__ = [
    "after_wrapper_step",
    "before_step",
    "check_only_updater",
    "elements_of",
    "grad_scale_of",
    "group_of",
    "groups_of",
    "innermost",
    "is_nested_step",
    "is_stepping",
    "keeps_history",
    "nested",
    "restart_history",
    "trained_weights",
    "was_skipped",
]


def nested(optimizer: Any) -> list[Any]:
    """An optimizer and those that it wraps, the innermost last: of Accelerate's or Fabric's, SAM, Lookahead.

    Raises:
        TypeError: the innermost is no torch.optim.Optimizer.
    """
    found = [optimizer]
    while (inside := _wrapped(found[-1])) is not None and all(inside is not known for known in found):
        found.append(inside)
    if not isinstance(found[-1], torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    return found


def innermost(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside all wrappers: the one whose steps change weights by their gradients."""
    return nested(optimizer)[-1]


def _wrapped(wrapper: Any) -> torch.optim.Optimizer | None:
    """The optimizer that an attribute of a wrapper holds, and that holds the wrapper's parameters."""
    held = _parameters(wrapper)
    for value in (getattr(wrapper, "optimizer", None), *getattr(wrapper, "__dict__", {}).values()):
        if isinstance(value, torch.optim.Optimizer) and (held is None or _parameters(value) == held):
            return value
    return None


def _parameters(optimizer: Any) -> set[int] | None:
    groups = getattr(optimizer, "param_groups", None)
    return None if groups is None else {id(parameter) for group in groups for parameter in group["params"]}


def elements_of(optimizer: torch.optim.Optimizer) -> int:
    """Returns how many numbers all parameters of the optimizer hold."""
    return sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])


def keeps_history(optimizer: torch.optim.Optimizer) -> bool:
    """Returns whether the state has vectors that run through all parameters, as that of LBFGS has.

    They belong to the active sets they were collected on, and cannot follow when weights move.
    """
    total = elements_of(optimizer)
    values = [value for state in optimizer.state.values() if isinstance(state, Mapping) for value in state.values()]
    tensors = [part for value in values for part in (value if isinstance(value, list | tuple) else [value])]
    return any(isinstance(t, torch.Tensor) and t.dim() == 1 and t.numel() == total > 1 for t in tensors)


def restart_history(optimizer: torch.optim.Optimizer) -> None:
    """Resets the optimizer to its first step."""
    optimizer.state.clear()
    if hasattr(optimizer, "_numel_cache"):  # LBFGS counts its elements once
        optimizer._numel_cache = None


def trained_weights(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, SparseWeight]:
    """The sparse weights of the model, all of which the optimizer must hold.

    Raises:
        ValueError: the model is not sparse, or the optimizer lacks one of its sparse weights.
    """
    weights = sparse_weights(model)
    if not weights:
        raise ValueError("the model has no sparse weights; call model = regrow.sparsify(model, density) first")
    columns = {n: w for n, w in weights.items() if w.switch or not w.keeps_parameter_shape}
    if sharded := [name for name, weight in columns.items() if is_sharded(weight.parameter)]:
        raise ValueError(f"{', '.join(sharded)}: compressed weights cannot be sharded; use sparsify(storage='masked')")
    held = _parameters(optimizer) or set()
    absent = [name for name, weight in weights.items() if id(weight.parameter) not in held]
    if absent:
        raise ValueError(
            f"the optimizer does not hold {', '.join(absent)}; make the optimizer after sparsify, from the parameters "
            "of the model that sparsify returned, or leave those layers dense with sparsify(..., dense=[...])"
        )
    return weights


def group_of(optimizer: torch.optim.Optimizer, weight: SparseWeight) -> dict[str, Any]:
    """The parameter group that trains a weight."""
    return groups_of(optimizer, {weight.name: weight})[weight.name]


def groups_of(optimizer: torch.optim.Optimizer, weights: Mapping[str, SparseWeight]) -> dict[str, dict[str, Any]]:
    """The parameter group that trains each weight, in one pass over the optimizer's parameters."""
    holders = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    groups = {name: holders.get(id(weight.parameter)) for name, weight in weights.items()}
    gone = [name for name, group in groups.items() if group is None]
    if gone:
        raise ValueError(f"the optimizer no longer holds {', '.join(gone)}; make a new updater with the new optimizer")
    return groups  # type: ignore[return-value]


def before_step(optimizer: torch.optim.Optimizer, action: Callable[[], None]) -> RemovableHandle:
    """Has `action` called when gradients are final: before each step, or after each call of the step's closure."""

    def around(closure: Callable[[], Any]) -> Callable[[], Any]:
        def closure_then_action() -> Any:
            loss = closure()
            action()
            return loss

        return closure_then_action

    def hook(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_nested_step(optimizer):
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)  # args[0] is the optimizer
        if closure is None:
            action()
            return None
        if "closure" in kwargs:
            return args, kwargs | {"closure": around(closure)}
        return (args[0], around(closure), *args[2:]), kwargs

    return optimizer.register_step_pre_hook(hook)


_HOOKED_STEP = torch.optim.Optimizer.profile_hook_step(lambda: None).__code__
"""Code of torch's own wrapper of every `step`, which calls the hooks."""


def is_nested_step(optimizer: torch.optim.Optimizer) -> bool:
    """Returns whether `super().step()` of a subclass calls a hook that its own step calls as well.

    Torch has hooks called by the `step` of each class of which an optimizer has ever been made.
    """
    return _depth(optimizer) > 1


def is_stepping(optimizer: Any) -> bool:
    """Returns whether a hooked `step` of the optimizer is under way."""
    return _depth(optimizer) > 0


def _depth(optimizer: Any) -> int:
    """Returns how many hooked steps of the optimizer are on the stack."""
    depth, frame = 0, sys._getframe(1)
    while frame is not None:
        depth += frame.f_code is _HOOKED_STEP and frame.f_locals.get("self") is optimizer
        frame = frame.f_back  # type: ignore[assignment]
    return depth


def after_wrapper_step(wrapper: Any, action: Callable[..., None]) -> list[RemovableHandle]:
    """Has `action` called after each step of a wrapper, where torch can hook it; those of other kinds only pass on."""
    if not isinstance(wrapper, torch.optim.Optimizer) or "_optimizer_step_post_hooks" not in vars(wrapper):
        return []
    wrapper._patch_step_function()  # a wrapper that did not call Optimizer.__init__ has not been hooked
    return [wrapper.register_step_post_hook(action)]


def check_only_updater(optimizer: torch.optim.Optimizer, kind: type) -> None:
    """Raises if an updater hangs on the optimizer already."""
    for hook in optimizer._optimizer_step_post_hooks.values():
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, kind):
            raise ValueError(f"a {type(owner).__name__} is already attached to this optimizer; call its remove() first")


def grad_scale_of(optimizer: torch.optim.Optimizer) -> float:
    """Returns how much too large gradients are at the step: fused optimizers divide by GradScaler's scale."""
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


def was_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Returns whether the step did nothing: fused optimizers run their hooks even where GradScaler found infinities."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)
