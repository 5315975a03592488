"""Which parameters of a dense model can be made sparse, and which of them are chosen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.parameter import UninitializedParameter

from regrow.topology.initial import matching

from .find import plain_name, sparse_weights, unwrapped
from .reparametrised import check_not_normalised, is_gain

__all__ = ["Patterns", "Prunable", "prunable", "select"]

_NORMALISATIONS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)

Patterns = Sequence[str | type[nn.Module]]
"""The argument `dense`: names and patterns of names, and types of modules."""


@dataclass(frozen=True)
class Prunable:
    """A parameter that can be made sparse, and where it is."""

    module: nn.Module
    attribute: str
    parameter: nn.Parameter


def prunable(model: nn.Module, also: Collection[str] = ()) -> dict[str, Prunable]:
    """The parameters that `sparsify` makes sparse, by name, each once.

    Args:
        also: names of gains (see `reparametrised`) that count all the same, such as those of masks that are given.

    Raises:
        ValueError: the model is sparse already; or a lazy module has not seen data.
    """
    found = _with_gains(model).items()
    return {name: place for name, place in found if name in also or not is_gain(place.module, place.attribute)}


def _with_gains(model: nn.Module) -> dict[str, Prunable]:
    """The prunable parameters and the gains, by name, each once."""
    if already := sparse_weights(model):
        raise ValueError(
            f"the model is already sparse ({next(iter(already))} and {len(already) - 1} more); call "
            "regrow.densify(model) first to start over"
        )
    found: dict[str, Prunable] = {}
    seen: set[int] = set()
    for path, module in unwrapped(model).named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            name = plain_name(f"{path}.{attribute}" if path else attribute)
            if isinstance(parameter, UninitializedParameter):
                raise ValueError(f"{name} is a lazy parameter without a shape; run one batch through the model first")
            if id(parameter) in seen or not _is_prunable(module, parameter):
                continue
            if hasattr(module, f"{attribute}_mask"):
                raise ValueError(
                    f"{name} has a {attribute}_mask beside it already, which is not regrow's; remove it first, "
                    f"such as with torch.nn.utils.prune.remove(module, {attribute!r})"
                )
            seen.add(id(parameter))
            found[name] = Prunable(module, attribute, parameter)
    return found


def _is_prunable(module: nn.Module, parameter: nn.Parameter) -> bool:
    return (
        parameter.requires_grad
        and parameter.is_floating_point()
        and parameter.dim() >= 2
        and parameter.numel() > 0
        and not isinstance(module, _NORMALISATIONS)
    )


def select(model: nn.Module, dense: Patterns, also: Collection[str] = ()) -> dict[str, Prunable]:
    """The prunable parameters (see `prunable`) without those that `dense` names; it may name gains, too.

    Raises:
        ValueError: a pattern matches nothing, or nothing is left; or weight normalisation divides one that is left, or
            it belongs to an embedding with sparse gradients.
    """
    if isinstance(dense, str):
        raise ValueError(f"dense={dense!r} must be a list of patterns, such as dense=[{dense!r}]")
    found, named = prunable(model, also), _with_gains(model)
    kept_dense: set[str] = set()
    for pattern in dense:
        kept_dense |= matching(named, pattern, "dense") if isinstance(pattern, str) else _of_type(named, pattern)
    chosen = {name: place for name, place in found.items() if name not in kept_dense}
    if not chosen:
        raise ValueError(
            "nothing to make sparse: no trainable floating parameter with two or more dimensions outside "
            f"normalisations is left ({len(kept_dense)} are kept dense by dense={list(dense)})"
        )
    for name, place in chosen.items():
        check_not_normalised(name, place.module, place.attribute)
        if getattr(place.module, "sparse", False) and isinstance(place.module, nn.Embedding | nn.EmbeddingBag):
            raise ValueError(
                f"{name} belongs to an embedding with sparse=True, whose gradients have no dense positions; keep it "
                f"dense with dense=[{name!r}], or make it with sparse=False"
            )
    return chosen


def _of_type(found: Mapping[str, Prunable], kind: type[nn.Module]) -> set[str]:
    """The names of the parameters that modules of a type hold themselves."""
    matches = {name for name, place in found.items() if isinstance(place.module, kind)}
    if not matches:
        kinds = sorted({type(place.module).__name__ for place in found.values()})
        raise ValueError(f"dense: no prunable parameter belongs to a module of type {kind.__name__}, but to {kinds}")
    return matches
