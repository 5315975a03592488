"""Import of models that were pruned elsewhere, by masks in a dictionary or by torch.nn.utils.prune."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils import prune

from regrow._sparsify import sparsify
from regrow.weights import plain_name, unwrapped
from regrow.weights.prunable import prunable
from regrow.weights.storage import check_storage

__all__ = ["from_masks", "from_prune"]


def from_masks(model: nn.Module, masks: Mapping[str, Tensor], *, storage: str = "auto") -> nn.Module:
    """Makes a dense model sparse by masks, such as another tool's; use the returned model.

    Args:
        model: dense; changed in place (see `regrow.sparsify`).
        masks: masks by parameter name ("fc1.weight"), bool or numbers that are 0 or 1, of the parameter's shape.
            Parameters without a mask stay dense.
        storage: as in `regrow.sparsify`.

    Raises:
        ValueError: a mask has another shape, no active position or other values, or its weight cannot be sparse;
            nothing is changed.

    Example:
        >>> masks = {"fc1.weight": torch.rand(30, 784) < 0.1}
        >>> model = regrow.export.from_masks(make_model(), masks)
        >>> list(regrow.sparse_weights(model))
        ['fc1.weight']
    """
    if not masks:
        raise ValueError("masks is empty; give a mask for each weight that should be sparse")
    found = prunable(model)
    if unknown := sorted(masks.keys() - found.keys()):
        raise ValueError(f"masks: {', '.join(unknown)} cannot be sparse here; use masks for {', '.join(found)}")
    dense = [name for name in found if name not in masks]
    return sparsify(model, None, init={name: _bool(name, masks[name]) for name in masks}, dense=dense, storage=storage)


def from_prune(model: nn.Module, *, storage: str = "auto") -> nn.Module:
    """Makes a model that torch.nn.utils.prune has pruned sparse by its masks; use the returned model.

    It removes the reparametrizations: parameters get their own names and values again, and masks become active sets.
    Parameters without a mask stay dense.

    Args:
        model: with at least one pruned weight; changed in place (see `regrow.sparsify`).
        storage: as in `regrow.sparsify`.

    Raises:
        ValueError: nothing is pruned, or something that cannot be sparse, such as a bias; nothing is changed.

    Example:
        >>> plain = make_model()
        >>> prune = torch.nn.utils.prune.l1_unstructured(plain.fc1, "weight", amount=0.9)
        >>> regrow.sparse_weights(regrow.export.from_prune(plain))["fc1.weight"].active
        2352
    """
    pruned = _pruned(model)
    if not pruned:
        raise ValueError("no parameter has a mask of torch.nn.utils.prune; use from_masks for other masks")
    check_storage(storage)
    found, masks = prunable(model), {}
    for name, (module, attribute) in pruned.items():
        mask = masks[name] = getattr(module, f"{attribute}_mask").bool()
        if f"{name}_orig" not in found or not mask.any():
            why = "has no active position" if f"{name}_orig" in found else "is no weight that can be sparse"
            raise ValueError(f"{name} is pruned, but {why}; call prune.remove(module, {attribute!r}) first")
    for module, attribute in pruned.values():
        prune.remove(module, attribute)
    return from_masks(model, masks, storage=storage)


def _pruned(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Returns where the parameters are that torch.nn.utils.prune has masked."""
    return {
        plain_name(f"{path}.{hook._tensor_name}".removeprefix(".")): (module, hook._tensor_name)
        for path, module in unwrapped(model).named_modules()
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, prune.BasePruningMethod)
    }


def _bool(name: str, mask: Tensor) -> Tensor:
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"masks: {name} has values other than 0 and 1; make it boolean, such as with mask > 0")
    return mask.bool()
