"""BlockedTensor: an activation in the kernels' layout that looks like the ordinary (N, C, H, W) tensor.

A sparse convolution that is given one gives one back, so a chain of layers converts once at each end:

    x = to_blocked(images)   # a torch.Tensor to everybody: shape, dtype, requires_grad, autograd, hooks
    y = net(x)               # SparseConv2d, relu, add and scaling run on the blocked data
    y.flatten(1)             # anything else gets an ordinary tensor first

Autograd, hooks and checkpoints are torch's own: the class is a wrapper subclass, and operators are
intercepted below autograd (`__torch_dispatch__`). Functions that may return a view convert above it, so that
no view of blocked data is ever claimed; item assignment is refused, since it writes through such a view.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from regrow.ops import lanes

_ops = torch.ops.regrow
_aten = torch.ops.aten


class BlockedTensor(torch.Tensor):
    """A batch-blocked activation that passes for the ordinary one. Made by `to_blocked`."""

    data_blocked: Tensor
    conversions = 0  # to ordinary tensors, in this process; `regrow.summary` reads it

    @staticmethod
    def __new__(cls, blocked: Tensor, shape) -> BlockedTensor:
        return torch.Tensor._make_wrapper_subclass(cls, torch.Size(shape), dtype=blocked.dtype, device=blocked.device)

    def __init__(self, blocked: Tensor, shape):
        self.data_blocked = blocked

    def dense(self) -> Tensor:
        """The ordinary contiguous tensor. Differentiable."""
        return _ToOrdinary.apply(self)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"BlockedTensor({tuple(self.shape)}, {self.dtype}, requires_grad={self.requires_grad})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__setitem__":
            raise RuntimeError("a BlockedTensor cannot be assigned to by index; call .dense() on it first")
        if not _passes(func, name):
            args, kwargs = tree_map(_dense, args), tree_map(_dense, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[override]
        handler = _HANDLERS.get(func)
        result = handler(*args, **(kwargs or {})) if handler else NotImplemented
        return _run_ordinary(func, args, kwargs or {}) if result is NotImplemented else result


def to_blocked(input: Tensor) -> BlockedTensor:
    """An activation in the kernels' layout. Differentiable.

    Args:
        input: (N, C, H, W), float32 or float64, on the CPU, any strides; a BlockedTensor is returned as it
        is.

    Example:
        >>> to_blocked(torch.randn(4, 3, 8, 8)).shape
        torch.Size([4, 3, 8, 8])
    """
    return input if isinstance(input, BlockedTensor) else _ToBlocked.apply(input)


def blocked_data(tensor: Tensor) -> Tensor:
    """The blocked data of any (N, C, H, W) tensor; converts an ordinary one. Not differentiable."""
    if isinstance(tensor, BlockedTensor):
        return tensor.data_blocked
    return _ops.to_blocked.default(tensor, lanes(tensor.dtype))


def ordinary(tensor: Any) -> Any:
    """The ordinary tensor of a BlockedTensor, not differentiable; anything else as it is."""
    if not isinstance(tensor, BlockedTensor):
        return tensor
    BlockedTensor.conversions += 1
    return _ops.from_blocked.default(tensor.data_blocked, list(tensor.shape), lanes(tensor.dtype))


class _ToBlocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input):
        return BlockedTensor(blocked_data(input), input.shape)

    @staticmethod
    def backward(ctx, grad):
        return ordinary(grad)


class _ToOrdinary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input):
        return ordinary(input)

    @staticmethod
    def backward(ctx, grad):
        return BlockedTensor(blocked_data(grad), grad.shape)


# -- above autograd: which functions may see a BlockedTensor

_BELOW = {  # handled below autograd, or never a view
    *("relu", "relu_", "add", "add_", "__add__", "__radd__", "__iadd__", "mul", "__mul__", "__rmul__", "neg"),
    *("detach", "clone", "contiguous", "to", "float", "double", "zeros_like", "ones_like", "empty_like"),
    *("requires_grad_", "retain_grad", "register_hook", "register_post_accumulate_grad_hook", "backward"),
    *(
        "size",
        "dim",
        "numel",
        "is_floating_point",
        "is_complex",
        "is_contiguous",
        "stride",
        "__len__",
        "__hash__",
    ),
    *("sum", "mean", "isfinite", "_backward_hooks", "element_size", "data_ptr", "is_pinned", "__repr__"),
}


def _passes(func: Callable, name: str) -> bool:
    """Attributes, in-place methods and the functions above stay; anything else gets ordinary tensors."""
    in_place = name.endswith("_") and not name.endswith("__")
    return name in ("__get__", "__set__", "__delete__") or name in _BELOW or in_place


def _dense(value: Any) -> Any:
    return value.dense() if isinstance(value, BlockedTensor) else value


# -- below autograd


def _run_ordinary(func, args, kwargs):
    """Any other operator: on ordinary tensors; what it wrote into is blocked again."""
    plain_args, plain_kwargs = tree_map(ordinary, args), tree_map(ordinary, kwargs)
    result = func(*plain_args, **plain_kwargs)
    for argument, given, plain in zip(func._schema.arguments, args, plain_args, strict=False):
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written and isinstance(given, BlockedTensor):
            given.data_blocked.copy_(blocked_data(plain))
            return given
    return result


def _like(tensor: BlockedTensor, blocked: Tensor) -> BlockedTensor:
    return BlockedTensor(blocked, tensor.shape)


def _same_kind(a: Any, b: Any) -> bool:
    """Two activations of one shape and dtype: their blocked data can be met element by element."""
    both = isinstance(a, Tensor) and isinstance(b, Tensor)
    return both and a.shape == b.shape and a.dtype == b.dtype


def _elementwise(op: Callable) -> Callable:
    """An operator that keeps zeros zero, run on the blocked data."""

    def run(self, *args, **kwargs):
        return _like(self, op(self.data_blocked, *args, **kwargs))

    return run


def _add(self, other, *, alpha=1):
    if not _same_kind(self, other):
        return NotImplemented
    return BlockedTensor(torch.add(blocked_data(self), blocked_data(other), alpha=alpha), self.shape)


def _add_(self, other, *, alpha=1):
    if not _same_kind(self, other) or not isinstance(self, BlockedTensor):
        return NotImplemented
    self.data_blocked.add_(blocked_data(other), alpha=alpha)
    return self


def _relu_(self):
    self.data_blocked.relu_()
    return self


def _mul(self, other):
    if isinstance(self, BlockedTensor) and isinstance(other, int | float):
        return _like(self, self.data_blocked * other)
    if not _same_kind(self, other):
        return NotImplemented
    return BlockedTensor(blocked_data(self) * blocked_data(other), self.shape)


def _threshold_backward(grad, self, threshold):
    if threshold < 0 or not _same_kind(grad, self):
        return NotImplemented
    return BlockedTensor(_aten.threshold_backward(blocked_data(grad), blocked_data(self), threshold), self.shape)


def _keeps_layout(self, memory_format=None, **options) -> bool:
    return all(value is None or value == getattr(self, name, None) for name, value in options.items())


def _clone(self, *, memory_format=None):
    return _like(self, self.data_blocked.clone())


def _zeros_like(self, **options):
    return _like(self, torch.zeros_like(self.data_blocked)) if _keeps_layout(self, **options) else NotImplemented


_HANDLERS: dict[Any, Callable] = {
    _aten.relu.default: _elementwise(torch.relu),
    _aten.relu_.default: _relu_,
    _aten.neg.default: _elementwise(torch.neg),
    _aten.detach.default: lambda self: _like(self, self.data_blocked.detach()),
    _aten.clone.default: _clone,
    _aten.zeros_like.default: _zeros_like,
    _aten.add.Tensor: _add,
    _aten.add_.Tensor: _add_,
    _aten.mul.Tensor: _mul,
    _aten.mul.Scalar: _mul,
    _aten.threshold_backward.default: _threshold_backward,
}


class SparseConv2dBlocked(torch.autograd.Function):
    """Sparse convolution of a BlockedTensor; a BlockedTensor comes out, and goes back in backward."""

    @staticmethod
    def forward(ctx, input, weight, bias, indices, plan, out_shape, geometry, observer):
        blocked = input.data_blocked
        ctx.geometry = (list(input.shape), lanes(input.dtype), *geometry)
        ctx.observer = observer
        ctx.save_for_backward(blocked, weight, indices, plan)
        with torch._C._AutoDispatchBelowAutograd():
            output = _ops.sparse_conv2d.default(blocked, weight, bias, indices, plan, *ctx.geometry)
        return BlockedTensor(output, out_shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        blocked, weight, indices, plan = ctx.saved_tensors
        shape, width = ctx.geometry[:2]
        if ctx.observer is not None and ctx.observer.on_backward is not None:
            ctx.observer.on_backward(_ops.from_blocked.default(blocked, shape, width), ordinary(grad))
        want = ctx.needs_input_grad[:3]
        arguments = (blocked, weight, indices, plan, *ctx.geometry)
        dx, dw, db = _ops.sparse_conv2d_backward.default(blocked_data(grad), *arguments, *want)
        gradients = (
            BlockedTensor(dx, shape) if want[0] else None,
            dw if want[1] else None,
            db if want[2] else None,
        )
        return *gradients, None, None, None, None, None
