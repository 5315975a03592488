"""Finds out what an optimizer does with a sparse weight by letting a twin of it step small tensors.

Names and settings say little: any optimizer may read shapes, count zeros, or keep state of its own kind.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from regrow.weights import SparseWeight, is_sharded

from .twins import Pattern, Run, run_twin, undisturbed

__all__ = ["Traits", "immovable_state", "traits_of"]

_SMALL = {1: (24,), 2: (4, 6), 3: (4, 3, 2), 4: (3, 2, 2, 2)}
"""Shapes by number of dimensions."""

_LARGE = {1: (18432,), 2: (128, 144)}
"""Some optimizers factor from 128 rows and columns on, or keep 8-bit state from 4096 elements on. Not a square, where a
matrix of rows by rows looks like state of elements."""

_TOLERANCE = 1e-3
"""Tolerance for steps, relative to the largest: far above rounding, far below the effect of shapes and zeros."""


@dataclass(frozen=True)
class Traits:
    """The effect of an optimizer on weights of one kind.

    Attributes:
        reads_shapes: the same numbers take other steps as a column, shape (n, 1), than in a dense shape.
        counts_zeros: elements of value 0 and gradient 0 change the steps of the others.
        magnitudes: names of the state of elements that is never negative, whatever the signs of gradients.
        immovable: names of the state of elements that cannot be moved to other positions.
        shared: names of state that rows, columns or all elements have in common.
        plain: a run without weight decay, for rules of momentum to be compared with.
    """

    reads_shapes: bool
    counts_zeros: bool
    magnitudes: frozenset[str]
    immovable: tuple[str, ...]
    shared: frozenset[str]
    plain: Run


_known: dict[Hashable, Traits] = {}
_LIMIT = 128
"""Number of traits kept at a time; the oldest are forgotten."""


def traits_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], weight: SparseWeight) -> Traits | None:
    """Returns what the optimizer does with weights of this storage and this number of dimensions.

    It takes some ten milliseconds at first; optimizers of the same class and settings share what is known.

    Args:
        group: the optimizer's parameter group that trains the weight.

    Returns:
        None where no twin can step: the optimizer needs what only training has, or cannot be copied.
    """
    key = _key(optimizer, group, weight)
    if key not in _known and (traits := _probed(optimizer, group, weight)) is not None:
        while len(_known) >= _LIMIT:
            del _known[next(iter(_known))]
        _known[key] = traits
    return _known.get(key)


def _key(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], weight: SparseWeight) -> Hashable:
    """Equal for optimizers that do the same with weights of one kind."""
    left_out = {"params", "param_names", "lr", "step", "state", "param_groups"}
    told = {**vars(optimizer), "group": {name: value for name, value in group.items() if name not in left_out}}
    settings = tuple(
        (name, _plain(value, optimizer))
        for name, value in told.items()
        if name not in left_out and not name.endswith("_hooks")
    )
    parameter = weight.parameter
    seen = (len(weight.shape), weight.keeps_parameter_shape)
    return (type(optimizer), settings, *seen, parameter.device, parameter.dtype)


def _plain(value: Any, optimizer: torch.optim.Optimizer) -> Hashable:
    """A plain value as it is, with its type; anything else is this optimizer's own."""
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device):
        return type(value), value
    if isinstance(value, list | tuple):
        return tuple(_plain(part, optimizer) for part in value)
    if isinstance(value, Mapping):
        return tuple((name, _plain(part, optimizer)) for name, part in value.items())
    return weakref.ref(optimizer)


def _probed(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], weight: SparseWeight) -> Traits | None:
    fresh = {name: value for name, value in group.items() if name != "step"}  # which counts from the first step on
    for settings, seeded in ((fresh, False), (group, True)):
        try:
            with undisturbed(weight.parameter.device):
                return _traits(partial(run_twin, optimizer, settings, weight.parameter, seeded=seeded), weight)
        except Exception:  # whatever a foreign optimizer raises
            continue
    return None


def _traits(run: Callable[[Pattern], Run], weight: SparseWeight) -> Traits:
    small, large, compressed = _shape(_SMALL, weight), _shape(_LARGE, weight), not weight.keeps_parameter_shape
    dense, column, spread = run(Pattern(small)), run(Pattern((24, 1))), run(Pattern((72, 1), every=3))
    runs = [column if compressed else dense]
    reads_shapes = _differ(dense, column, run)
    if not reads_shapes:  # else a matrix for each side of a long column would be huge
        wide, long = run(Pattern(large)), run(Pattern((18432, 1)))
        reads_shapes = _differ(wide, long, run)
        runs.append(long if compressed else wide)
    plain = run(Pattern((24, 1) if compressed else small, without_decay=True))
    if not all(bool(torch.isfinite(r.moved).all()) for r in (*runs, spread, plain)):
        raise FloatingPointError("a step of the optimizer's twin is NaN or infinite, so it shows nothing")
    return Traits(
        reads_shapes=reads_shapes,
        counts_zeros=not reads_shapes and _steps_differ(column, spread) and not _is_random(run),
        magnitudes=_magnitudes(runs[0]),
        immovable=tuple(sorted({name for r in runs for name in immovable_state(r.parameter, r.states[-1], r.total)})),
        shared=frozenset(name for r in runs for name, _ in _shared_state(r)),
        plain=plain,
    )


def _shape(shapes: Mapping[int, tuple[int, ...]], weight: SparseWeight) -> tuple[int, ...]:
    """A shape of as many dimensions as the weight has."""
    dimensions = len(weight.shape)
    known = shapes[min(dimensions, max(shapes))]
    return known + (1,) * (dimensions - len(known))


def _differ(dense: Run, column: Run, run: Callable[[Pattern], Run]) -> bool:
    """Returns whether steps differ, or the shapes of what is kept beside the elements."""
    kept = [sorted((name, tuple(shape)) for name, shape in _shared_state(r)) for r in (dense, column)]
    return kept[0] != kept[1] or (_steps_differ(dense, column) and not _is_random(run))


def _is_random(run: Callable[[Pattern], Run]) -> bool:
    """Returns whether other random numbers make other steps, so that a difference tells nothing."""
    return _steps_differ(run(Pattern((24, 1))), run(Pattern((24, 1), seed=1)))


def _steps_differ(left: Run, right: Run) -> bool:
    difference = (left.moved - right.moved).abs().max()
    return bool(difference > _TOLERANCE * left.moved.abs().max())


def _magnitudes(run: Run) -> frozenset[str]:
    """Names of the state of elements that is never negative and not always 0, such as averages of squares."""
    names = run.states[-1]
    return frozenset(name for name in names if all(_is_magnitude(run, s.get(name)) for s in run.states))


def _is_magnitude(run: Run, value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.shape == run.parameter.shape
        and value.is_floating_point()
        and bool((value >= 0).all())
        and bool((value > 0).any())
    )


def immovable_state(parameter: Tensor, state: Mapping[str, Any], total: int | None = None) -> list[str]:
    """Names of the state of elements that cannot be moved: kept in codes, or in another shape than the parameter's.

    Args:
        total: elements of all parameters together; a vector of so many is a history of all, which is restarted.
    """
    return [
        name
        for name, value in state.items()
        for tensor in _tensors(value)
        if tensor.numel() == parameter.numel() > 1 and not _is_movable(tensor, parameter) and tensor.numel() != total
    ]


def _is_movable(tensor: Tensor, parameter: Tensor) -> bool:
    plain = type(tensor) in (Tensor, torch.nn.Parameter) or is_sharded(tensor)
    coded = not tensor.is_floating_point() or tensor.itemsize == 1
    return plain and not coded and tensor.shape == parameter.shape


def _shared_state(run: Run) -> Iterator[tuple[str, torch.Size]]:
    for name, value in run.states[-1].items():
        for tensor in _tensors(value):
            if tensor.numel() > 1 and tensor.numel() != run.parameter.numel():
                yield name, tensor.shape


def _tensors(value: Any, depth: int = 3) -> Iterator[Tensor]:
    """The tensors in an entry of an optimizer's state, in lists, dicts and plain objects too."""
    if isinstance(value, Tensor):
        yield value
    elif depth:
        inner = value.values() if isinstance(value, Mapping) else getattr(value, "__dict__", {}).values()
        for part in value if isinstance(value, list | tuple) else inner:
            yield from _tensors(part, depth - 1)
