"""Checks that an optimizer does with a sparse weight what it does with any other; if not, says what to use."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from regrow.weights import SparseWeight

from .hooks import elements_of, groups_of
from .probe import immovable_state, traits_of

__all__ = ["check_movable", "check_steps_of"]

_READ_SHAPES = {"Adafactor", "CAME", "Muon", "Ranger", "Shampoo", "SOAP"}
"""Known by name where they cannot be probed."""


def check_steps_of(optimizer: torch.optim.Optimizer, weights: Mapping[str, SparseWeight]) -> None:
    """Refuses optimizers whose steps depend on how a weight is stored.

    Raises:
        ValueError: a weight is stored compressed, as a column, and the optimizer reads shapes; or it is stored masked,
            among zeros, and the optimizer counts them.
    """
    groups, kind = groups_of(optimizer, weights), type(optimizer).__name__
    for name, weight in weights.items():
        traits = traits_of(optimizer, groups[name], weight)
        reads_shapes = kind in _READ_SHAPES if traits is None else traits.reads_shapes
        if reads_shapes and (weight.switch or not weight.keeps_parameter_shape):
            stored = "will be" if weight.switch else "is"
            raise ValueError(
                f"{kind} reads shapes of parameters, but {name} {stored} stored compressed, as a column of its active "
                "weights; use SGD, Adam or AdamW, or sparsify(..., storage='masked')"
            )
        if traits is not None and traits.counts_zeros and weight.keeps_parameter_shape:
            raise ValueError(
                f"the size of {kind}'s steps depends on how many elements of a parameter are 0, but {name} is stored "
                "masked, among the zeros of its inactive weights; use SGD, Adam or AdamW, or sparsify(..., "
                "storage='compressed')"
            )


def check_movable(optimizer: torch.optim.Optimizer, weights: Mapping[str, SparseWeight]) -> None:
    """Refuses optimizers whose state cannot follow weights that move; methods that move any call it.

    Raises:
        ValueError: state of elements is kept in codes (8-bit optimizers) or in another shape than the weight's.
    """
    groups, kind = groups_of(optimizer, weights), type(optimizer).__name__
    for name, weight in weights.items():
        traits = traits_of(optimizer, groups[name], weight)
        there = immovable_state(weight.parameter, optimizer.state.get(weight.parameter, {}), elements_of(optimizer))
        if names := sorted({*there, *(traits.immovable if traits else ())}):
            raise ValueError(
                f"{kind} keeps {', '.join(names)} of {name} in a form that cannot be moved to other positions, "
                "as pruned and grown weights need; use an optimizer with state in floating point, such as SGD, Adam "
                "or AdamW, or regrow.Static"
            )
