"""Which weights are compressed, and the swapping of layers that this takes.

The rule is fixed and the same on every machine, so that a run does not depend on where it was started.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from regrow.nn import SparseConv2d, SparseLinear
from regrow.nn.blocked import blocked_inputs, ordinary_outputs
from regrow.nn.conv2d import resolve_padding
from regrow.topology.indices import check_dense

from .extras import hand_over, irreplaceable
from .readers import readers

__all__ = [
    "DENSEST_COMPRESSED",
    "Storage",
    "check_storage",
    "compress",
    "keep_blocked",
    "leave_blocked",
    "materialise",
    "on_meta",
    "replace_module",
    "used_elsewhere",
    "why_masked",
]

Storage = Literal["auto", "masked", "compressed"]

DENSEST_COMPRESSED = 0.3
"""`auto` compresses layers up to this density."""

_MEMBERS = frozenset(vars(nn.Module()))
"""What torch keeps in every module; members are looked at where they are."""


def check_storage(storage: str) -> None:
    if storage not in get_args(Storage):
        raise ValueError(f"storage={storage!r} is unknown; use 'auto', 'masked' or 'compressed'")


def why_masked(
    elsewhere: Mapping[int, str], module: nn.Module, parameter: nn.Parameter, density: float, storage: Storage
) -> str | None:
    """Why a weight has to stay in masked storage; None where it can be compressed.

    Compressed are the weights of modules of exactly the type nn.Linear or nn.Conv2d (groups 1, zero padding), on the
    CPU or on the meta device, in float32 or float64, that nobody else reads and whose replacement loses nothing; and
    under "auto" only up to a density of 0.3.

    Args:
        elsewhere: what `used_elsewhere` has found.
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
    if reason := elsewhere.get(id(parameter)) or elsewhere.get(id(module)):
        return reason
    if reason := irreplaceable(module, parameter):  # type: ignore[arg-type]
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


def used_elsewhere(model: nn.Module) -> dict[int, str]:
    """Who else has a parameter or a module, by its id: modules that share it, read its weight, or keep it in a list."""
    holders = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    found = {key: "tied" for key, times in holders.items() if times > 1}
    found |= {key: f"{reader} reads its weight" for key, reader in readers(model).items()}
    for module in model.modules():
        for name, value in vars(module).items():
            if name not in _MEMBERS:
                found |= {key: f"{type(module).__name__} keeps it in {name}, too" for key in _ids(value)}
    return found


def _ids(value: Any, depth: int = 3) -> Iterator[int]:
    """The ids of parameters and modules in an attribute, which may be a list, dict, … of them."""
    if isinstance(value, nn.Parameter | nn.Module):
        yield id(value)
    elif depth and isinstance(value, list | tuple | set | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _ids(one, depth - 1)


def compress(module: nn.Linear | nn.Conv2d, positions: Tensor, why: str) -> SparseLinear | SparseConv2d:
    """The compressed form of a dense layer, with all that it has; positions: (active,) int64, ascending."""
    kind = SparseLinear if isinstance(module, nn.Linear) else SparseConv2d
    layer = kind.from_dense(module, positions=positions)  # type: ignore[arg-type]
    layer.why = why
    hand_over(module, layer)
    return layer


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
