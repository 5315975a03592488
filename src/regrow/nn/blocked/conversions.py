"""Conversions between the blocked layout and ordinary tensors: who listens, and what a model has of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
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
        operation: what asked for it, such as "flatten" or "aten.sigmoid.default"; "... backward" in backward.
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
    """Tell whoever is recording."""
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
        example_input: what the model is called with: a tensor, or a tuple of arguments.
    """
    model = copy.deepcopy(model)
    arguments = example_input if isinstance(example_input, tuple) else (example_input,)
    for path, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: _running.append(path))
        module.register_forward_hook(lambda *_: _running.__delitem__(-1), always_call=True)
    try:
        with torch.random.fork_rng(devices=[]), recording() as log, torch.enable_grad():
            leaves = [
                leaf for leaf in tree_leaves(model(*arguments)) if isinstance(leaf, Tensor) and leaf.requires_grad
            ]
            if leaves:
                torch.autograd.backward([leaf.sum() for leaf in leaves])
    finally:
        _running.clear()
    return log
