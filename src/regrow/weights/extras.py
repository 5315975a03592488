"""State of a layer beside weight, bias and settings: what goes along when it is replaced, and what forbids that.

Hooks, attributes that somebody has put onto the layer (a scale, a flag) and marks on its parameters (`no_decay`) go
along. A layer with anything else, which a replacement would lose, is not replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import CodeType, MethodType
from typing import Any

import torch
from torch import nn

from regrow.nn import SparseConv2d, SparseLayer, SparseLinear

__all__ = ["hand_over", "irreplaceable", "keep_marks"]

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)
_OF_STATE = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def hand_over(old: nn.Module, new: nn.Module) -> None:
    """Copies to a replacement what a layer has besides weight, bias and settings.

    Hooks go over as the same dicts, so that their handles still remove them.

    Example:
        >>> dense, sparse = torch.nn.Linear(4, 4), SparseLinear(4, 4)
        >>> dense.scale, dense.weight.no_decay = 2.0, True
        >>> hand_over(dense, sparse)
        >>> sparse.scale, sparse.weight.no_decay
        (2.0, True)
    """
    for name in _HOOKS:
        setattr(new, name, getattr(old, name))
    vars(new).update(_attributes(old))
    _mark(old, new)


def keep_marks(model: nn.Module, copied: nn.Module) -> None:
    """Copies the marks of a model's parameters to those of its copy, because copy.deepcopy leaves them out.

    Example:
        >>> import copy
        >>> layer = torch.nn.Linear(4, 4)
        >>> layer.weight.no_decay = True
        >>> copied = copy.deepcopy(layer)
        >>> keep_marks(layer, copied)
        >>> copied.weight.no_decay
        True
    """
    for module, other in zip(model.modules(), copied.modules(), strict=True):
        _mark(module, other)


def _mark(old: nn.Module, new: nn.Module) -> None:
    """Copies the attributes of a module's parameters to another's parameters of the same name."""
    for name, parameter in new._parameters.items():
        if parameter is not None and (of_old := old._parameters.get(name)) is not None:
            vars(parameter).update(vars(of_old))


def _attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes that a layer did not get from its constructor."""
    made_with = _made_with(_kind(module))
    return {name: value for name, value in vars(module).items() if name not in made_with}


def _kind(module: nn.Module) -> Any:
    return next(kind for kind in (nn.Linear, nn.Conv2d, SparseLinear, SparseConv2d) if isinstance(module, kind))


@cache
def _made_with(kind: Any) -> frozenset[str]:
    """The attributes that every layer of a class has; makes one, without drawing anything."""
    sizes = (1, 1) if kind in (nn.Linear, SparseLinear) else (1, 1, 1)
    with torch.device("cpu" if issubclass(kind, SparseLayer) else "meta"):
        return frozenset(vars(kind(*sizes, bias=False, dtype=torch.float32)))


def irreplaceable(module: nn.Linear | nn.Conv2d, parameter: nn.Parameter) -> str | None:
    """Returns what a compressed layer in the place of this one would lose; None where it loses nothing."""
    if module._parameters.get("weight") is not parameter:
        own = [name for name, one in module._parameters.items() if one is parameter]
        return f"its weight is made of {own[0]}"
    return _of_parameter(parameter) or _of_members(module) or _of_shape(module) or _of_hooks(module)


def _of_parameter(parameter: nn.Parameter) -> str | None:
    if type(parameter) is not nn.Parameter:
        return f"its weight is a {type(parameter).__name__}"
    accumulated = (parameter._post_accumulate_grad_hooks or {}).values()
    if parameter._backward_hooks or not all(_is_ours(hook) for hook in accumulated):
        return "its gradient has a hook"
    return None


def _is_ours(hook: Any) -> bool:
    """Returns whether a hook is regrow's own, which follows a parameter that changes its storage."""
    return str(getattr(hook, "__module__", "")).partition(".")[0] == __name__.partition(".")[0]


def _of_members(module: nn.Module) -> str | None:
    members: dict[str, Mapping[str, Any]] = {
        "parameter": module._parameters,
        "buffer": module._buffers,
        "module": module._modules,
    }
    for kind, named in members.items():
        if more := [name for name in named if name not in ("weight", "bias")]:
            return f"it has a further {kind}, {more[0]}"
    compressed = SparseLinear if isinstance(module, nn.Linear) else SparseConv2d
    for name, value in _attributes(module).items():
        if hasattr(type(module), name) or (isinstance(value, MethodType) and value.__self__ is module):
            return f"it has a {name} of its own"
        if name in _made_with(compressed) or hasattr(compressed, name):
            return f"it has a {name}, which means something else in a compressed layer"
    return None


def _of_shape(module: Any) -> str | None:
    """Whoever changes weights in place (channel pruning, resizing) may leave the settings as they were."""
    if isinstance(module, nn.Linear):
        wanted: tuple[int, ...] = (module.out_features, module.in_features)
    else:
        wanted = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
    if tuple(module.weight.shape) != wanted:
        return f"its weight is {'x'.join(map(str, module.weight.shape))}, its settings say {'x'.join(map(str, wanted))}"
    bias = module._parameters.get("bias", ...)
    if bias is not None and (bias is ... or bias.shape != wanted[:1]):
        return "its bias is no parameter of one number a row"
    return None


def _of_hooks(module: nn.Module) -> str | None:
    if any(getattr(module, name) for name in _OF_STATE):
        return "its state dict has a hook"
    hooks = [hook for name in _HOOKS[:-1] for hook in (getattr(module, name) or {}).values()]
    return "a hook reads its weight" if any(_reads_weight(hook) for hook in hooks) else None


def _reads_weight(hook: Any) -> bool:
    """Returns whether the code of a hook names a weight."""
    hook = getattr(hook, "func", hook)  # of functools.partial
    code = getattr(hook, "__code__", None) or getattr(type(hook).__call__, "__code__", None)
    return code is not None and _names_weight(code)


def _names_weight(code: CodeType) -> bool:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return bool({"weight", "parameters", "named_parameters"} & {*code.co_names}) or any(map(_names_weight, inner))
