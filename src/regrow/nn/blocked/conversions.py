"""Conversions between the blocked layout and ordinary tensors: who listens, and what a model has of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Conversion:
    """One activation that was converted.

    Attributes:
        into: whether into the blocked layout; False: out of it.
        operation: what needed it, such as "flatten" or "aten.sigmoid.default"; "... backward" in backward.
        shape: (N, C, H, W).
        module: path of the module that was running in forward; "" where that is not known.
    """

    into: bool
    operation: str
    shape: tuple[int, ...]
    module: str = ""

    def __str__(self) -> str:
        place = f" in {self.module}" if self.module else ""
        return (
            f"{'into' if self.into else 'out of'} the layout: {self.operation}{place}, {'x'.join(map(str, self.shape))}"
        )


_logs: list[list[Conversion]] = []
_running: list[str] = []  # paths of the modules whose forward is running, while `trace` looks on


@contextmanager
def recording() -> Iterator[list[Conversion]]:
    """A list to which every conversion in this process is appended, until the context ends.

    Example:
        >>> with recording() as conversions:
        ...     model(images)
        >>> [c.operation for c in conversions]
        ['SparseConv2d', 'flatten']
    """
    log: list[Conversion] = []
    _logs.append(log)
    try:
        yield log
    finally:
        _logs[:] = [other for other in _logs if other is not log]


def note(into: bool, operation: str, shape, module: str | None = None) -> None:
    """Reports the conversion to the recorders."""
    for log in _logs:
        log.append(Conversion(into, operation, tuple(shape), running() if module is None else module))


def running() -> str:
    """Path of the innermost module whose forward is running, as far as `trace` knows."""
    return _running[-1] if _running else ""


def trace(model: nn.Module, example_input: Any) -> list[Conversion]:
    """The conversions of one forward and backward pass, in order.

    A copy of the model runs, in the mode that the model is in: neither its gradients and buffers nor the random state
    change.

    Args:
        example_input: what the model is called with: a tuple of positional arguments; a mapping of keyword arguments,
            such as a dict or what a tokenizer returns; or a single argument, such as a tensor or a list.

    Raises:
        ValueError: the model cannot be called so; says how the input was understood.

    Example:
        >>> trace(torch.nn.Linear(4, 4), {"input": torch.ones(2, 4)})
        []
    """
    model = copy.deepcopy(model)
    arguments, keywords = _call(example_input)
    for path, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: _running.append(path))
        module.register_forward_hook(lambda *_: _running.__delitem__(-1), always_call=True)
    try:
        with torch.random.fork_rng(devices=[]), recording() as log, torch.enable_grad():
            try:
                output = model(*arguments, **keywords)
            except Exception as error:
                raise ValueError(_not_so(model, example_input, error)) from error
            if leaves := [leaf for leaf in _tensors(output) if leaf.requires_grad]:
                torch.autograd.backward([leaf.sum() for leaf in leaves])
    finally:
        _running.clear()
    return log


def _call(example_input: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Positional and keyword arguments."""
    if isinstance(example_input, Mapping) and all(isinstance(name, str) for name in example_input):
        return (), example_input
    return (example_input if isinstance(example_input, tuple) else (example_input,)), {}


def _not_so(model: nn.Module, example_input: Any, error: Exception) -> str:
    """Returns how the input was understood, and how it may be meant."""
    arguments, keywords = _call(example_input)
    if keywords:
        understood, remedy = f"keyword arguments {', '.join(keywords)}", "one argument that is a mapping is (mapping,)"
    else:
        kinds = ", ".join(type(argument).__name__ for argument in arguments)
        understood = f"{len(arguments)} positional argument{'' if len(arguments) == 1 else 's'} ({kinds})"
        remedy = "several arguments are a tuple, keyword arguments a dict"
    return (
        f"example_input was understood as {understood}, and {type(model).__name__} cannot be called so "
        f"({type(error).__name__}: {error}); {remedy}"
    )


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors in what a model returns, in whatever containers."""
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            yield leaf
        elif isinstance(leaf, Mapping):  # of a kind that torch does not know
            for value in leaf.values():
                yield from _tensors(value)
