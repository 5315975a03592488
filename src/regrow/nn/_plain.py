"""Detects when layers have to compute through torch's own operators: while torch transforms or records what runs.

torch.func, forward-mode derivatives and the recorders of graphs (torch.jit.trace, torch.export, torch.onnx) know the
operators of torch. Under them a compressed layer is a dense one, whose weight is scattered from the active values.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

_transformed = torch._C._are_functorch_transforms_active
_traced = torch._C._get_tracing_state


def is_plain() -> bool:
    """Returns whether torch transforms or traces what runs now. Cheap: every call of a layer asks."""
    return _transformed() or forward_ad._current_level >= 0 or _traced() is not None


def scatter(values: Tensor, indices: Tensor, shape: torch.Size) -> Tensor:
    """The dense weight of this shape, by an operator that can be batched in values and indices, and recorded."""
    zeros = values.new_zeros(shape.numel())
    return zeros.scatter(0, indices.long(), values.reshape(-1)).reshape(shape)
