"""Operator schemas, their shapes without data (fake), and their plain-torch implementation.

`weight` is (active, 1), `indices` the (active,) flat row-major positions in the logical weight, ascending;
`plan` comes from `make_plan`, which checked those indices. The native library overrides every operator on
the CPU and reads `plan`; the reference reads `indices`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import reference, reference_activations
from ._layout import Shape, blocked_size, conv_output_shape

library = torch.library.Library("regrow", "DEF")

_GEOMETRY = "int[] weight_shape, int[] stride, int[] padding, int[] dilation"
_CONV = f"int[] shape, int lanes, {_GEOMETRY}"
_WANT = "bool want_input, bool want_weight, bool want_bias"
_LAYER = "Tensor weight, Tensor? bias, Tensor indices, Tensor plan"
_BACK = "Tensor grad_output, Tensor input, Tensor weight, Tensor indices, Tensor plan"
_TRIPLE = "(Tensor, Tensor, Tensor)"
_SHAPE = "int[] shape, int lanes"
_MADE_OF = "Tensor grad_output, Tensor input"
_AFFINE = "Tensor? scale, Tensor? center, Tensor? shift"
_POOL = f"Tensor windows, int[] out_size, {_SHAPE}"
SCHEMAS = {
    "make_plan": f"(Tensor indices, {_GEOMETRY}, int[] image, ScalarType dtype) -> Tensor",
    "make_pixel_plan": f"(Tensor indices, {_GEOMETRY}, int[] image) -> Tensor",
    "plan_bytes": "(Tensor plan) -> int",
    "to_blocked": "(Tensor input, int lanes) -> Tensor",
    "from_blocked": "(Tensor blocked, SymInt[] shape, int lanes) -> Tensor",
    "sparse_linear": f"(Tensor input, {_LAYER}, int out_features) -> Tensor",
    "sparse_linear_backward": f"({_BACK}, {_WANT}) -> {_TRIPLE}",
    "sparse_conv2d": f"(Tensor input, {_LAYER}, {_CONV}) -> Tensor",
    "sparse_conv2d_pixels": f"(Tensor input, {_LAYER}, {_GEOMETRY}) -> Tensor",
    "sparse_conv2d_backward": f"({_BACK}, {_CONV}, {_WANT}) -> {_TRIPLE}",
    "blocked_affine": f"(Tensor input, {_AFFINE}, Tensor? residual, bool relu, {_SHAPE}) -> Tensor",
    "blocked_relu_backward": f"({_MADE_OF}, {_AFFINE}, {_SHAPE}) -> Tensor",
    "blocked_dropout": f"(Tensor input, {_AFFINE}, bool relu, int seed, float p, float factor, {_SHAPE}) -> Tensor",
    "blocked_max_pool": f"(Tensor input, {_AFFINE}, bool relu, {_POOL}) -> Tensor",
    "blocked_max_pool_backward": f"({_MADE_OF}, {_AFFINE}, bool relu, bool gated, {_POOL}) -> Tensor",
    "blocked_avg_pool": f"(Tensor input, {_POOL}) -> Tensor",
    "blocked_avg_pool_backward": f"(Tensor grad_output, {_POOL}) -> Tensor",
    "blocked_norm": "(Tensor input, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean, Tensor(b!)? running_var, "
    f"bool training, float momentum, float eps, {_SHAPE}) -> (Tensor, Tensor, Tensor, Tensor)",
    "blocked_norm_backward": f"({_MADE_OF}, Tensor? weight, Tensor mean, Tensor invstd, bool training, "
    f"{_AFFINE}, bool relu, Tensor? windows, int[] out_size, {_SHAPE}, bool want_input) -> {_TRIPLE}",
}


def _fake_make_plan(indices: Tensor, *_) -> Tensor:
    return indices.new_empty(1, dtype=torch.int64)


def _fake_to_blocked(input: Tensor, lanes: int) -> Tensor:
    return input.new_empty(blocked_size(input.shape, lanes))


def _fake_from_blocked(blocked: Tensor, shape: Shape, lanes: int) -> Tensor:
    return blocked.new_empty(list(shape))


def _fake_linear(input: Tensor, weight: Tensor, bias, indices, plan, out_features: int) -> Tensor:
    return input.new_empty(input.shape[0], out_features)


def _fake_gradients(x_shape, input, weight, channels, want_input, want_weight, want_bias):
    return (
        input.new_empty(x_shape if want_input else 0),
        weight.new_empty(weight.shape if want_weight else 0),
        weight.new_empty(channels if want_bias else 0),
    )


def _fake_linear_backward(grad_output, input, weight, indices, plan, *want):
    return _fake_gradients(input.shape, input, weight, grad_output.shape[1], *want)


def _fake_conv2d(input, weight, bias, indices, plan, shape, lanes, weight_shape, stride, padding, dilation):
    return input.new_empty(blocked_size(conv_output_shape(shape, weight_shape, stride, padding, dilation), lanes))


def _fake_conv2d_pixels(input, weight, bias, indices, plan, *geometry):
    return input.new_empty(conv_output_shape(input.shape, *geometry))


def _fake_conv2d_backward(
    grad_output, input, weight, indices, plan, shape, lanes, weight_shape, stride, padding, dilation, *want
):
    return _fake_gradients(input.shape, input, weight, weight_shape[0], *want)


def _fake_same(input: Tensor, *_) -> Tensor:
    return torch.empty_like(input)


def _fake_pool(input: Tensor, *arguments) -> Tensor:
    out_size, shape, lanes = arguments[-3:]
    return input.new_empty(blocked_size([*shape[:2], *out_size], lanes))


def _fake_avg_pool_backward(grad_output: Tensor, windows, out_size, shape: Shape, lanes: int) -> Tensor:
    return grad_output.new_empty(blocked_size(shape, lanes))


def _fake_pool_backward(grad_output: Tensor, input: Tensor, *_) -> Tensor:
    return torch.empty_like(input)


def _fake_norm(input: Tensor, *arguments):
    channels = arguments[-2][1]
    return tuple(input.new_empty(channels) for _ in range(4))


def _fake_norm_backward(grad_output: Tensor, input: Tensor, *arguments):
    shape, _, want_input = arguments[-3:]
    dx = input.new_empty(input.numel() if want_input else 0)
    return dx, input.new_empty(shape[1]), input.new_empty(shape[1])


FAKES: dict[str, Callable] = {
    "make_plan": _fake_make_plan,
    "make_pixel_plan": _fake_make_plan,
    "to_blocked": _fake_to_blocked,
    "from_blocked": _fake_from_blocked,
    "sparse_linear": _fake_linear,
    "sparse_linear_backward": _fake_linear_backward,
    "sparse_conv2d": _fake_conv2d,
    "sparse_conv2d_pixels": _fake_conv2d_pixels,
    "sparse_conv2d_backward": _fake_conv2d_backward,
    "blocked_affine": _fake_same,
    "blocked_relu_backward": _fake_same,
    "blocked_dropout": _fake_same,
    "blocked_max_pool": _fake_pool,
    "blocked_max_pool_backward": _fake_pool_backward,
    "blocked_avg_pool": _fake_pool,
    "blocked_avg_pool_backward": _fake_avg_pool_backward,
    "blocked_norm": _fake_norm,
    "blocked_norm_backward": _fake_norm_backward,
}

for _name, _schema in SCHEMAS.items():
    library.define(_name + _schema)
    _module = reference if hasattr(reference, _name) else reference_activations
    library.impl(_name, getattr(_module, _name), "CompositeExplicitAutograd")
for _name, _fake in FAKES.items():
    torch.library.register_fake(f"regrow::{_name}", _fake, lib=library)
