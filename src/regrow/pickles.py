"""What of regrow is in a pickle of a whole model."""

from __future__ import annotations

from typing import Any

from torch import nn

from .distributed import GradientMean
from .nn import SparseConv2d, SparseLinear
from .nn.blocked import blocked_inputs, ordinary_outputs
from .weights import GradientMask
from .weights.masked import HOOKS

__all__ = ["safe_globals"]


def safe_globals() -> list[Any]:
    """The classes and functions that `torch.load` must be allowed, to read a whole sparse model from a pickle.

    None of them does anything but put a model together. State dicts and files of `regrow.save` need none.

    Example:
        >>> torch.save(model, "whole.pt")
        >>> own = [type(module) for module in model.modules()]
        >>> with torch.serialization.safe_globals([*own, *regrow.safe_globals()]):
        ...     again = torch.load("whole.pt")
    """
    layers = [SparseLinear, SparseConv2d, blocked_inputs, ordinary_outputs]
    return [*layers, GradientMask, *HOOKS, GradientMean, *GradientMean.HOOKS, nn.modules.module._WrappedHook]
