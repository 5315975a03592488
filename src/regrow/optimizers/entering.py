"""The optimizer state with which weights enter, and how it moves along with them.

Momenta of a weight that enters are 0, or what has been collected. A second moment of 0 would be wrong: the optimizer
divides by its root, and in the middle of a training, where bias correction has ended, Adam's first step of such a
weight would be 3.2 learning rates long. So magnitudes enter with the mean of the layer's active weights
(docs/decisions/0021-entering-second-moments.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from regrow.weights import SparseWeight
from regrow.weights.base import per_element_state

from .hooks import group_of
from .probe import traits_of

__all__ = ["entering_means", "move_weights", "state_of"]

_MAGNITUDES = frozenset({"exp_avg_sq", "max_exp_avg_sq", "exp_avg_var", "exp_inf", "square_avg", "sum", "step_size"})
"""Known by name where an optimizer cannot be probed."""


def state_of(optimizers: Sequence[Any], weight: SparseWeight) -> dict[str, Any]:
    """Returns what an optimizer and its wrappers keep of the elements of a weight.

    Args:
        optimizers: as `nested` has them, the innermost last. Names of what a wrapper keeps begin with its place.
    """
    *wrappers, optimizer = optimizers
    traits = traits_of(optimizer, group_of(optimizer, weight), weight)
    shared = traits.shared if traits else frozenset()
    state = {n: value for n, value in _kept(optimizer.state, weight).items() if n not in shared}
    for place, wrapper in enumerate(wrappers):
        kept = getattr(wrapper, "state", None)
        if isinstance(kept, Mapping) and kept is not optimizer.state:
            state |= {f"{place}.{name}": value for name, value in _kept(kept, weight).items()}
    return state


def _kept(states: Mapping[Any, Any], weight: SparseWeight) -> dict[str, Any]:
    """Returns what is kept by parameter, and by a name and then by parameter."""
    parameter = weight.parameter
    named = {name: inner[parameter] for name, inner in states.items() if isinstance(name, str) and parameter in inner}
    return {**states.get(parameter, {}), **named}


def entering_means(
    optimizer: torch.optim.Optimizer, weight: SparseWeight, positions: Tensor | None = None
) -> dict[str, Tensor]:
    """The mean of each magnitude, a tensor of no dimensions by the name of the state.

    Args:
        positions: positions of a masked weight for the mean; None: over active ones.
    """
    traits = traits_of(optimizer, group_of(optimizer, weight), weight)
    names = traits.magnitudes if traits else _MAGNITUDES
    state = per_element_state(weight.parameter, optimizer.state.get(weight.parameter, {}))
    own = {name: value for name, value in state.items() if name in names}
    return {n: _mean(weight.take(v) if positions is None else weight.pick(v, positions)) for n, v in own.items()}


def _mean(values: Tensor) -> Tensor:
    return values.mean(dtype=torch.promote_types(values.dtype, torch.float32)).to(values.dtype)


def move_weights(
    optimizers: Sequence[Any],
    weight: SparseWeight,
    leaving: Tensor,
    entering: Tensor,
    inherited: Mapping[str, Tensor],
    restart: bool,
) -> None:
    """Moves weights and what optimizers keep of them; see `SparseWeight.move`.

    Args:
        optimizers: as `nested` has them, the innermost last.
        leaving: positions that are pruned, ascending.
        entering: positions that are grown, ascending.
        inherited: state by name, of weights at `entering`. Other momenta are 0, other magnitudes the means.
        restart: weights that are pruned and grow again lose their state.
    """
    means = {n: mean.expand(entering.numel()) for n, mean in entering_means(optimizers[-1], weight).items()}
    weight.move(leaving, entering, state_of(optimizers, weight), {**means, **inherited}, restart)
