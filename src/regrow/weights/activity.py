"""How active a layer is: sums of |input| of each column of its weight, and of |gradient| of each output.

Their product bounds the gradient of each weight (GraBo, Heddes et al. 2024, arXiv:2401.06898, section 3), so that
positions where it may be large are known without it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from regrow.nn import SparseConv2d, SparseLinear
from regrow.nn.conv2d import resolve_padding

from .staged import Activity

__all__ = ["ActivityHook", "activity_of", "geometry_of", "is_known"]


def is_known(module: nn.Module, attribute: str) -> bool:
    """Returns whether the activity of a module's parameter can be told from its input and gradient of output."""
    if attribute != "weight":
        return False
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and geometry_of(module) is not None
    return isinstance(module, nn.Linear | SparseLinear | SparseConv2d)


def activity_of(module: nn.Module, input: Tensor, grad_output: Tensor) -> Activity:
    """Sums over a batch, in float64: of |grad_output| of each row and of |input| of each column.

    Args:
        module: one that `is_known`.
        input: (*, in_features), or (N, C, H, W) or without N.
        grad_output: (*, out_features), or (N, O, H', W') or without N.
    """
    if isinstance(module, nn.Linear | SparseLinear):
        return _sums(grad_output), _sums(input)
    images, grads = (tensor.reshape(-1, *tensor.shape[-3:]) for tensor in (input, grad_output))
    geometry = geometry_of(module)
    assert geometry is not None
    kernel, stride, padding, dilation = geometry
    total = images.abs().sum(0, keepdim=True, dtype=torch.float64)
    windows = nn.functional.unfold(total, kernel, dilation=dilation, padding=padding, stride=stride)
    return grads.abs().sum((0, 2, 3), dtype=torch.float64), windows.sum((0, 2))


def _sums(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.size(-1)).abs().sum(0, dtype=torch.float64)


def geometry_of(module: Any) -> tuple[Any, ...] | None:
    """Kernel, stride, padding and dilation in numbers; None where padding has more on one side."""
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    try:
        return kernel, stride, resolve_padding(module.padding, kernel, stride, dilation), dilation
    except ValueError:
        return None


class ActivityHook:
    """A forward hook that calls a bound method with the input and the gradient of the output, in each backward pass.

    The method's object is held weakly, and copies and pickles of the module hold a hook that does nothing.

    Args:
        listener: a bound method of (input, grad_output); None: none.
    """

    def __init__(self, listener: Callable[[Tensor, Tensor], None] | None = None):
        self._listener = None if listener is None else weakref.WeakMethod(listener)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self._listener is None or not (inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)):
            return
        if not output.requires_grad:
            return
        weak, input = self._listener, inputs[0].detach()

        def note(gradient: Tensor) -> None:
            listener = weak()
            if listener is not None:
                listener(input, gradient.detach())

        output.register_hook(note)

    def __reduce__(self) -> tuple[Any, ...]:
        return ActivityHook, ()
