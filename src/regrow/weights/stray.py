"""Checks that a model computes what it says: no inactive weights that are not 0, values of another active set."""

from __future__ import annotations

from torch import nn

from . import sparse_weights

__all__ = ["check", "check_no_stray"]

_REMEDY = (
    "A dense checkpoint, a merge (such as LoRA's) or an init function writes them. To set them to 0: for weight in "
    "regrow.sparse_weights(model).values(): weight.enforce(). To keep them, in a dense model: "
    "regrow.densify(model, keep_inactive=True)"
)


def check(model: nn.Module) -> list[str]:
    """Returns what is wrong with the sparse weights of a model, a sentence each; empty if all is right.

    In masked storage it looks for inactive weights that are not 0: the model then computes with more weights than its
    summary shows. In compressed storage it looks for values and positions that do not belong together, as averages of
    models with several topologies leave them. Nothing is changed.

    Args:
        model: sparse or dense.

    Example:
        >>> model = regrow.sparsify(torch.nn.Linear(20, 10), density=0.1, storage="masked")
        >>> regrow.check(model)
        []
        >>> weight = torch.nn.init.ones_(model.weight)
        >>> regrow.check(model)[0][:48]
        'weight: 180 of 180 inactive weights are not 0. A'
    """
    found: list[str] = []
    for name, weight in sparse_weights(model).items():
        try:
            weight.check()
        except RuntimeError as error:
            found.append(f"{name}: {error}")
        else:
            found += [f"{name}: {text}" for text in _stray(weight.stray(), weight.numel - weight.active)]
    return found


def _stray(number: int, inactive: int) -> list[str]:
    return [f"{number:,} of {inactive:,} inactive weights are not 0. {_REMEDY}"] if number else []


def check_no_stray(model: nn.Module, what: str) -> None:
    """Raises ValueError where a copy without inactive weights would compute something else than the model.

    Args:
        what: would be made, such as "a dense copy".
    """
    if found := check(model):
        more = f" ({len(found) - 1} more weights likewise)" if len(found) > 1 else ""
        raise ValueError(f"{what} would compute something else than the model: {found[0]}{more}")
