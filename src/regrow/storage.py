"""Which weights are compressed, and the swapping of layers that this takes.

The rule is fixed and the same on every machine, so that a run does not depend on where it was started.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .nn import SparseConv2d, SparseLinear
from .nn._positions import check_dense
from .nn.blocked import blocked_inputs, ordinary_outputs
from .nn.conv2d import resolve_padding

__all__ = [
    "DENSEST_COMPRESSED",
    "Storage",
    "check_storage",
    "compress",
    "hand_over_hooks",
    "keep_blocked",
    "leave_blocked",
    "materialise",
    "on_meta",
    "replace_module",
    "why_masked",
]

Storage = Literal["auto", "masked", "compressed"]

DENSEST_COMPRESSED = 0.3
"""`auto` compresses layers up to this density."""

_READERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.MultiheadAttention)
"""Modules that read the weights of their children instead of calling them."""

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


def check_storage(storage: str) -> None:
    if storage not in get_args(Storage):
        raise ValueError(f"storage={storage!r} is unknown; use 'auto', 'masked' or 'compressed'")


def why_masked(
    model: nn.Module, module: nn.Module, parameter: nn.Parameter, density: float, storage: Storage
) -> str | None:
    """Why a weight has to stay in masked storage; None where it can be compressed.

    Compressed are the weights of modules of exactly the type nn.Linear or nn.Conv2d (groups 1, zero padding), on the
    CPU or on the meta device, in float32 or float64, that nobody else reads; and under "auto" only up to a density of
    0.3.
    """
    kind = type(module)
    if storage == "masked":
        return "masked was asked for"
    if kind not in (nn.Linear, nn.Conv2d):
        own = isinstance(module, nn.Linear | nn.Conv2d)  # a subclass may bear the same name, and compute otherwise
        return f"{kind.__module__ + '.' if own else ''}{kind.__name__} has no compressed form"
    if parameter.device.type not in ("cpu", "meta"):
        return f"on {parameter.device.type}, compressed runs on the CPU"
    if parameter.dtype not in (torch.float32, torch.float64):
        return f"{parameter.dtype} has no compressed form".replace("torch.", "")
    if isinstance(module, nn.Conv2d) and (reason := _unserved(module)):
        return reason
    if reason := _read_elsewhere(model, module, parameter):
        return reason
    numel = parameter.numel()
    if storage == "auto" and round(density * numel) > math.ceil(DENSEST_COMPRESSED * numel):  # counts are rounded
        return f"density above {DENSEST_COMPRESSED:.0%}"
    return None


def _unserved(module: nn.Conv2d) -> str | None:
    if module.groups != 1:
        return "grouped"
    if module.padding_mode != "zeros":
        return f"padding_mode {module.padding_mode}"
    try:
        resolve_padding(module.padding, module.kernel_size, module.stride, module.dilation)  # type: ignore[arg-type]
    except ValueError:
        return f"padding {module.padding}"
    return None


def _read_elsewhere(model: nn.Module, module: nn.Module, parameter: nn.Parameter) -> str | None:
    holders = [m for m in model.modules() if any(p is parameter for p in m.parameters(recurse=False))]
    if len(holders) > 1:
        return "tied"
    for parent in model.modules():
        if isinstance(parent, _READERS) and any(child is module for child in parent.children()):
            return f"{type(parent).__name__} reads it"
    return None


def compress(module: nn.Linear | nn.Conv2d, positions: Tensor, why: str) -> SparseLinear | SparseConv2d:
    """The compressed form of a dense layer, with its hooks; positions: (active,) int64, ascending."""
    kind = SparseLinear if isinstance(module, nn.Linear) else SparseConv2d
    layer = kind.from_dense(module, positions=positions)  # type: ignore[arg-type]
    layer.why = why
    hand_over_hooks(module, layer)
    return layer


def hand_over_hooks(old: nn.Module, new: nn.Module) -> None:
    """Gives a module the hooks of the one that it stands for: the same dicts, so that handles go on removing them."""
    for name in _HOOKS:
        setattr(new, name, getattr(old, name))


def on_meta(model: nn.Module, compressed: Collection[nn.Module]) -> list[nn.Module]:
    """The modules with tensors of their own on the meta device, but for those that will be compressed.

    Raises:
        ValueError: one that cannot be given values: tied, too large, or without `reset_parameters`.
    """
    found: list[nn.Module] = []
    seen: set[int] = set()
    for path, module in model.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        names = {name: tensor for name, tensor in own if tensor.is_meta}
        if not names or any(module is other for other in compressed):
            continue
        for name, tensor in names.items():
            check_dense(f"{path}.{name}".lstrip("."), tensor.numel())
        if not hasattr(module, "reset_parameters") or seen & {id(tensor) for tensor in names.values()}:
            raise ValueError(
                f"{path or type(module).__name__}: {', '.join(names)} on the meta device, and tied or without a "
                "reset_parameters() that draws values; make this module on the CPU"
            )
        seen |= {id(tensor) for tensor in names.values()}
        found.append(module)
    return found


def materialise(modules: Iterable[nn.Module]) -> None:
    """Gives modules on the meta device memory on the CPU and the values that they are made with."""
    for module in modules:
        module.to_empty(device="cpu", recurse=False)
        module.reset_parameters()  # type: ignore[operator]


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Puts `new` wherever `old` is in the model; the model, or `new` where `old` is the model itself."""
    if model is old:
        return new
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
    return model


def keep_blocked(model: nn.Module) -> None:
    """Lets activations stay in the kernels' layout from the first sparse convolution or batch norm of a network on.

    Its outputs are ordinary tensors all the same: a forward hook sees to that. A root that is itself a convolution has
    nothing behind it, and is left alone.
    """
    inside = [module for module in model.modules() if module is not model]
    convolutions = [module for module in inside if isinstance(module, SparseConv2d)]
    if not convolutions:
        return
    for layer in convolutions:
        layer.blocked_output = True
    for module in inside:
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(blocked_inputs)
    model.register_forward_hook(ordinary_outputs)


def leave_blocked(model: nn.Module) -> None:
    """Takes back what `keep_blocked` did."""
    for module in model.modules():
        if isinstance(module, SparseConv2d):
            module.blocked_output = False
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if hook in (blocked_inputs, ordinary_outputs):
                    del hooks[key]
