"""Every operator in plain torch: the fallback without native kernels, and the oracle in tests.

Slow and simple on purpose: scatter the active values to a dense weight, use torch's own operator, gather.
Arguments are those of the operators in `_schemas.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ._layout import Shape, blocked_size, conv_output_shape, planes


def make_plan(
    indices: Tensor,
    weight_shape: Shape,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    image: Shape,
    dtype: torch.dtype,
) -> Tensor:
    """Check the indices. The plan itself is a placeholder: the reference reads the indices each time."""
    check_indices(indices, weight_shape)
    return torch.zeros(1, dtype=torch.int64)


def make_pixel_plan(
    indices: Tensor, weight_shape: Shape, stride: Shape, padding: Shape, dilation: Shape, image: Shape
) -> Tensor:
    """Check the indices, as `make_plan`."""
    check_indices(indices, weight_shape)
    return torch.zeros(1, dtype=torch.int64)


def plan_bytes(plan: Tensor) -> int:
    """The reference keeps nothing."""
    return 0


def check_indices(indices: Tensor, weight_shape: Shape) -> None:
    """Raise unless `indices` are ascending, unique, int32 or int64 positions in a weight of this shape."""
    if indices.dtype not in (torch.int32, torch.int64):
        raise RuntimeError(f"make_plan: indices are {indices.dtype}, wanted int32 or int64")
    if indices.dim() != 1:
        raise RuntimeError(f"make_plan: indices has shape {tuple(indices.shape)}, wanted 1 dimensions")
    if indices.numel() == 0:
        return
    limit = weight_shape[0] * weight_shape[1] * weight_shape[2] * weight_shape[3]
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= limit:
        bad = low if low < 0 else high
        raise RuntimeError(f"make_plan: index {bad} is out of range, wanted 0 <= index < {limit}")
    step = indices[1:] - indices[:-1]
    if step.numel() and int(step.min()) <= 0:
        at = int(step.argmin())
        what = "duplicate" if int(step[at]) == 0 else "unsorted"
        raise RuntimeError(
            f"make_plan: indices are {what}: {int(indices[at + 1])} follows {int(indices[at])} "
            f"at position {at + 1}; wanted ascending unique indices"
        )


def scatter_dense(weight: Tensor, indices: Tensor, shape: Shape) -> Tensor:
    """The dense weight of this shape: `weight` (active, 1) at `indices`, 0 elsewhere."""
    count = 1
    for size in shape:
        count *= size
    dense = weight.new_zeros(count)
    return dense.index_copy_(0, indices.long(), weight.reshape(-1)).view(*shape)


def gather_active(dense: Tensor, indices: Tensor) -> Tensor:
    """The (active, 1) values of a dense tensor at `indices`."""
    return dense.reshape(-1).index_select(0, indices).unsqueeze(1)


def to_blocked(input: Tensor, lanes: int) -> Tensor:
    """(N, C, H, W) to blocked."""
    batch, shape = input.shape[0], list(input.shape)
    blocked = input.new_zeros(blocked_size(shape, lanes))
    target = planes(blocked, shape, lanes)
    padded = F.pad(input, (0, 0, 0, 0, 0, 0, 0, target.shape[0] * lanes - batch))
    target.copy_(padded.unflatten(0, (target.shape[0], lanes)).permute(0, 2, 3, 4, 1))
    return blocked


def from_blocked(blocked: Tensor, shape: Shape, lanes: int) -> Tensor:
    """Blocked to (N, C, H, W), contiguous."""
    source = planes(blocked, shape, lanes).permute(0, 4, 1, 2, 3)
    return source.reshape(-1, *shape[1:])[: shape[0]].clone()


def sparse_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, indices: Tensor, plan: Tensor, out_features: int
) -> Tensor:
    """`input @ W.T + bias`."""
    with torch.autocast(input.device.type, enabled=False):
        return F.linear(input, scatter_dense(weight, indices, (out_features, input.shape[1])), bias)


def sparse_linear_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    indices: Tensor,
    plan: Tensor,
    want_input: bool,
    want_weight: bool,
    want_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight (at the active positions) and bias; empty where not wanted."""
    shape = (grad_output.shape[1], input.shape[1])
    none = input.new_empty(0)
    with torch.autocast(input.device.type, enabled=False):
        return (
            grad_output @ scatter_dense(weight, indices, shape) if want_input else none,
            gather_active(grad_output.t() @ input, indices) if want_weight else none.clone(),
            grad_output.sum(0) if want_bias else none.clone(),
        )


def sparse_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    indices: Tensor,
    plan: Tensor,
    shape: Shape,
    lanes: int,
    weight_shape: Shape,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
) -> Tensor:
    """Convolution of a blocked (N, C, H, W) activation; blocked result."""
    dense = scatter_dense(weight, indices, weight_shape)
    x = from_blocked(input, shape, lanes)
    with torch.autocast(input.device.type, enabled=False):
        return to_blocked(F.conv2d(x, dense, bias, stride, padding, dilation), lanes)  # type: ignore[arg-type]


def sparse_conv2d_pixels(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    indices: Tensor,
    plan: Tensor,
    weight_shape: Shape,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
) -> Tensor:
    """Convolution of an ordinary (N, C, H, W) tensor."""
    dense = scatter_dense(weight, indices, weight_shape)
    with torch.autocast(input.device.type, enabled=False):
        return F.conv2d(input, dense, bias, stride, padding, dilation)  # type: ignore[arg-type]


def sparse_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    indices: Tensor,
    plan: Tensor,
    shape: Shape,
    lanes: int,
    weight_shape: Shape,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    want_input: bool,
    want_weight: bool,
    want_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input (blocked), weight (at the active positions) and bias; empty where not wanted."""
    out_shape = conv_output_shape(shape, weight_shape, stride, padding, dilation)
    grad, x = from_blocked(grad_output, out_shape, lanes), from_blocked(input, shape, lanes)
    dense = scatter_dense(weight, indices, weight_shape)
    dx, dw, db = conv2d_backward(grad, x, dense, stride, padding, dilation, (want_input, want_weight, want_bias))
    none = input.new_empty(0)
    return (
        none if dx is None else to_blocked(dx, lanes),
        none.clone() if dw is None else gather_active(dw, indices),
        none.clone() if db is None else db,
    )


def conv2d_backward(
    grad: Tensor, x: Tensor, dense: Tensor, stride: Shape, padding: Shape, dilation: Shape, wanted: Shape
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """torch's own convolution gradients: of input, dense weight and bias, None where not wanted."""
    with torch.autocast(x.device.type, enabled=False):
        gradients = torch.ops.aten.convolution_backward(
            grad, x, dense, [dense.shape[0]], stride, padding, dilation, False, [0, 0], 1, list(wanted)
        )
    dx, dw, db = (g if want else None for g, want in zip(gradients, wanted, strict=True))
    return dx, dw, db
