"""Scale active weights up at first, so that few of them pass on as much signal as all of them would."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from .base import SparseWeight

__all__ = ["check_rescale", "scale_up"]


def check_rescale(rule: bool | str) -> None:
    """Raises ValueError for a rule that is not there."""
    if rule not in ("auto", "neuron", "layer", True, False):
        raise ValueError(f"rescale={rule!r} is unknown; use 'auto', 'neuron', 'layer' (or True) or False")


def scale_up(weights: Iterable[SparseWeight], rule: bool | str) -> None:
    """Multiplies active values; the rules are those of `regrow.sparsify`."""
    if rule is False:
        return
    for weight in weights:
        if weight.density < 1:
            weight.write(weight.values * (_of_rows(weight) if rule == "neuron" else weight.density**-0.5))


def _of_rows(weight: SparseWeight) -> Tensor:
    """(inputs / active inputs)^1/2 of the row of each active weight, (active,)."""
    _, row, active = weight.rows.unique_consecutive(return_inverse=True, return_counts=True)
    inputs = weight.numel // weight.shape[0]
    return (inputs / active[row].to(weight.values.dtype)).sqrt()
