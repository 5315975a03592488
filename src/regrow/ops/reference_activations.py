"""The operators between convolutions in plain torch; see `reference.py`.

`scale`, `center` and `shift` are (C,) or None (1, 0, 0): the affine map of each channel of `input`,
scale * (input - center) + shift. `windows` is the table of `_windows.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._layout import Shape
from .reference import from_blocked, to_blocked


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def _line(x: Tensor, scale: Tensor | None, center: Tensor | None, shift: Tensor | None) -> Tensor:
    x = x if center is None else x - _per_channel(center)
    x = x if scale is None else x * _per_channel(scale)
    return x if shift is None else x + _per_channel(shift)


def blocked_affine(
    input: Tensor,
    scale: Tensor | None,
    center: Tensor | None,
    shift: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    shape: Shape,
    lanes: int,
) -> Tensor:
    """The affine map plus residual, and its relu."""
    y = _line(from_blocked(input, shape, lanes), scale, center, shift)
    y = y if residual is None else y + from_blocked(residual, shape, lanes)
    return to_blocked(torch.relu(y) if relu else y, lanes)


def blocked_relu_backward(
    grad_output: Tensor,
    input: Tensor,
    scale: Tensor | None,
    center: Tensor | None,
    shift: Tensor | None,
    shape: Shape,
    lanes: int,
) -> Tensor:
    """The gradient where the affine map is above 0."""
    grad, y = from_blocked(grad_output, shape, lanes), _line(from_blocked(input, shape, lanes), scale, center, shift)
    return to_blocked(torch.where(y <= 0, 0, grad), lanes)


def _scramble(x: Tensor) -> Tensor:
    """A bijection of 32 bits (lowbias32), in int64; products that overflow keep their low 32 bits."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)


def blocked_dropout(
    input: Tensor,
    scale: Tensor | None,
    center: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    seed: int,
    p: float,
    factor: float,
    shape: Shape,
    lanes: int,
) -> Tensor:
    """The affine map (and its relu) times `factor`, zeroed with probability p; noise by seed and position."""
    y = _line(from_blocked(input, shape, lanes), scale, center, shift)
    place = torch.arange(y.numel()).view(y.shape) & 0xFFFFFFFF
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    bits = _scramble((_scramble(place ^ low) + place * 0x9E3779B9 + high) & 0xFFFFFFFF)
    kept = bits >= min(round(p * 2**32), 2**32 - 1)
    return to_blocked(torch.where(kept, (torch.relu(y) if relu else y) * factor, 0), lanes)


def _pixels(windows: Tensor, out_size: Shape):
    """(row, column, rows, columns, divisor) of every window."""
    sides = windows.tolist()
    for i, (top, bottom, down, height) in enumerate(sides[: out_size[0]]):
        for j, (left, right, along, width) in enumerate(sides[out_size[0] :]):
            yield i, j, slice(top, bottom, down), slice(left, right, along), height * width


def blocked_max_pool(
    input: Tensor,
    scale: Tensor | None,
    center: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    windows: Tensor,
    out_size: Shape,
    shape: Shape,
    lanes: int,
) -> Tensor:
    """The largest value of the affine map (and its relu) in each window."""
    x = _line(from_blocked(input, shape, lanes), scale, center, shift)
    y = x.new_empty(*shape[:2], *out_size)
    for i, j, rows, columns, _ in _pixels(windows, out_size):
        y[:, :, i, j] = x[:, :, rows, columns].amax((2, 3))
    return to_blocked(torch.relu(y) if relu else y, lanes)


def blocked_max_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    scale: Tensor | None,
    center: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    gated: bool,
    windows: Tensor,
    out_size: Shape,
    shape: Shape,
    lanes: int,
) -> Tensor:
    """The gradient goes to the first largest pixel of its window; `gated`: where that is above 0."""
    x = _line(from_blocked(input, shape, lanes), scale, center, shift)
    grad = from_blocked(grad_output, [*shape[:2], *out_size], lanes)
    x = torch.relu(x) if relu else x
    dx = torch.zeros_like(x)
    for i, j, rows, columns, _ in _pixels(windows, out_size):
        part = x[:, :, rows, columns].flatten(2)
        first = torch.nn.functional.one_hot(part.argmax(2), part.shape[2]).view_as(x[:, :, rows, columns])
        dx[:, :, rows, columns] += first * grad[:, :, i, j, None, None]
    return to_blocked(torch.where(x <= 0, 0, dx) if gated else dx, lanes)


def blocked_avg_pool(input: Tensor, windows: Tensor, out_size: Shape, shape: Shape, lanes: int) -> Tensor:
    """The average of each window."""
    x = from_blocked(input, shape, lanes)
    y = x.new_empty(*shape[:2], *out_size)
    for i, j, rows, columns, divisor in _pixels(windows, out_size):
        y[:, :, i, j] = x[:, :, rows, columns].sum((2, 3)) / divisor
    return to_blocked(y, lanes)


def blocked_avg_pool_backward(
    grad_output: Tensor, windows: Tensor, out_size: Shape, shape: Shape, lanes: int
) -> Tensor:
    """Distributes each window's gradient in equal parts."""
    grad = from_blocked(grad_output, [*shape[:2], *out_size], lanes)
    dx = grad.new_zeros(list(shape))
    for i, j, rows, columns, divisor in _pixels(windows, out_size):
        dx[:, :, rows, columns] += grad[:, :, i, j, None, None] / divisor
    return to_blocked(dx, lanes)


def blocked_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    shape: Shape,
    lanes: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A BatchNorm as affine maps: scale, shift, mean (their center), 1 / deviation. Training moves the moments."""
    if training:
        variance, mean = torch.var_mean(from_blocked(input, shape, lanes).double(), (0, 2, 3), correction=0)
        count = shape[0] * shape[2] * shape[3]
        for running, seen in ((running_mean, mean), (running_var, variance * (count / max(count - 1, 1)))):
            if running is not None:
                running.lerp_(seen.to(running.dtype), momentum)
    else:
        assert running_mean is not None
        assert running_var is not None
        mean, variance = running_mean.double(), running_var.double()
    invstd = torch.rsqrt(variance + eps)
    scale = invstd if weight is None else invstd * weight
    shift = (mean.to(input.dtype) - mean) * scale  # makes good for the rounding of the mean
    shift = shift if bias is None else shift + bias
    return tuple(values.to(input.dtype, copy=True) for values in (scale, shift, mean, invstd))  # type: ignore[return-value]


def blocked_norm_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    training: bool,
    scale: Tensor | None,
    center: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    windows: Tensor | None,
    out_size: Shape,
    shape: Shape,
    lanes: int,
    want_input: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias; `grad_output` comes back through a relu of the affine map and a max pool."""
    if windows is not None:
        pool = (scale, center, shift, relu, relu, windows, out_size, shape, lanes)
        grad_output = blocked_max_pool_backward(grad_output, input, *pool)
    elif relu:
        grad_output = blocked_relu_backward(grad_output, input, scale, center, shift, shape, lanes)
    grad = from_blocked(grad_output, shape, lanes)
    normal = (from_blocked(input, shape, lanes) - _per_channel(mean)) * _per_channel(invstd)
    dbias, dweight = grad.sum((0, 2, 3)), (grad * normal).sum((0, 2, 3))
    if not want_input:
        return input.new_empty(0), dweight, dbias
    count = shape[0] * shape[2] * shape[3]
    if training:
        grad = grad - (_per_channel(dbias) + normal * _per_channel(dweight)) / count
    gain = invstd if weight is None else invstd * weight
    return to_blocked(grad * _per_channel(gain), lanes), dweight, dbias
