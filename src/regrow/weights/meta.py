"""Modules on the meta device, which have shapes and no values."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from torch import nn

from regrow.topology.indices import check_dense

__all__ = ["materialise", "on_meta"]


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
                f"{path or type(module).__name__}: {', '.join(names)} on the meta device are tied, or lack a "
                "reset_parameters() that draws values; make this module on the CPU"
            )
        seen |= {id(tensor) for tensor in names.values()}
        found.append(module)
    return found


def materialise(modules: Iterable[nn.Module]) -> None:
    """Allocates modules on the meta device on the CPU, with their initial values."""
    for module in modules:
        module.to_empty(device="cpu", recurse=False)
        module.reset_parameters()  # type: ignore[operator]
