"""The tensor subclass: what it shows above autograd, and how it becomes an ordinary tensor and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from regrow.nn._plain import is_plain
from regrow.ops import DTYPES, isa, lanes
from regrow.ops._gradients import check_not_batched

from .conversions import note, running
from .deferred import DeferredValue, Pending

_ops = torch.ops.regrow
_CPU = torch.device("cpu")
HANDLERS: dict[Any, Callable] = {}  # operator -> what runs it on blocked data; filled by forward.py and backward.py


class BlockedTensor(torch.Tensor):
    """A batch-blocked activation that passes for the ordinary one. Made by `to_blocked` and by SparseConv2d.

    Args:
        deferred: the data, or how to compute them.
    """

    @staticmethod
    def __new__(cls, deferred: DeferredValue) -> BlockedTensor:
        # A wrapper without storage: whoever reads memory directly gets an error instead of data in another order.
        return torch.Tensor._make_wrapper_subclass(cls, torch.Size(deferred.shape), dtype=deferred.dtype, device=_CPU)

    def __init__(self, deferred: DeferredValue):
        self._deferred = deferred

    @property
    def deferred(self) -> DeferredValue:
        """The content, which aliases share."""
        self._deferred.check()
        return self._deferred

    def dense(self, operation: str = "dense") -> Tensor:
        """The ordinary contiguous tensor. Differentiable.

        Args:
            operation: what needs it, for `regrow.summary`.
        """
        return _ordinary(self, operation)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return repr(_ordinary(self, "repr"))

    def __reduce_ex__(self, protocol):
        return _ordinary(self, "pickle").__reduce_ex__(protocol)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        # Here, above autograd, because the views that other functions return could not share memory with blocked data.
        with torch._C.DisableTorchFunctionSubclass():
            if _passes(func, name):
                return func(*args, **kwargs)
            special = _SPECIAL.get(name)
            result = special(*args, **kwargs) if special else NotImplemented
            return _on_ordinary(func, name, args, kwargs) if result is NotImplemented else result

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[override]
        kwargs = kwargs or {}
        handler = HANDLERS.get(func)
        with torch._C.DisableTorchFunctionSubclass():  # or each look at a shape would come back to __torch_function__
            result = handler(*args, **kwargs) if handler else NotImplemented
            return _run_ordinary(func, args, kwargs) if result is NotImplemented else result


def blocked(shape, content: Tensor | Pending, dtype: torch.dtype) -> BlockedTensor:
    """A new activation of this shape that holds `content`."""
    return BlockedTensor(DeferredValue(list(shape), content, dtype))


def like(tensor: Tensor, content: Tensor | Pending) -> BlockedTensor:
    """A new activation of the shape of `tensor`."""
    return BlockedTensor(DeferredValue(list(tensor.shape), content, tensor.dtype))


def to_blocked(input: Tensor, operation: str = "to_blocked", module: str | None = None) -> BlockedTensor:
    """An activation in the kernels' layout. Differentiable.

    Args:
        input: (N, C, H, W), float32 or float64, on the CPU, any strides; a BlockedTensor is returned as it
        is.
        operation: what needs it, for `regrow.summary`.
        module: module that needs it.

    Example:
        >>> to_blocked(torch.randn(4, 3, 8, 8)).shape
        torch.Size([4, 3, 8, 8])
    """
    if isinstance(input, BlockedTensor):
        return input
    return _ToBlocked.apply(input, operation, running() if module is None else module)


def blocked_deferred(tensor: Tensor, operation: str, module: str | None = None) -> DeferredValue:
    """The deferred value of any (N, C, H, W) tensor; an ordinary one is converted. Not differentiable."""
    if isinstance(tensor, BlockedTensor):
        return tensor.deferred
    check_not_batched(tensor)
    note(True, operation, tensor.shape, module)
    return DeferredValue(list(tensor.shape), _ops.to_blocked.default(tensor, lanes(tensor.dtype)), tensor.dtype)


def blocked_data(tensor: Tensor, operation: str) -> Tensor:
    """The blocked data of any (N, C, H, W) tensor; an ordinary one is converted. Not differentiable."""
    return blocked_deferred(tensor, operation).data()


def ordinary(tensor: Any, operation: str, module: str | None = None) -> Any:
    """The ordinary tensor of a BlockedTensor, not differentiable; anything else as it is."""
    if not isinstance(tensor, BlockedTensor):
        return tensor
    note(False, operation, tensor.shape, module)
    return _ops.from_blocked.default(tensor.deferred.data(), list(tensor.shape), lanes(tensor.dtype))


def ordinary_outputs(module: Any, args: Any, output: Any) -> Any:
    """A forward hook that returns ordinary tensors to a network's user, whatever the network computes with."""
    return _dense(output, "output")


def blocked_inputs(module: Any, args: Any) -> Any:
    """A forward pre-hook for batch norms: what a dense convolution gave them enters the layout here.

    The sparse convolution behind would convert it all the same, and batch norm, activation and pool are faster in the
    layout. Compiled, transformed or traced code and other subclasses of tensors keep what they have.
    """
    if torch.compiler.is_compiling() or is_plain() or isa() == "reference":
        return None
    input: Any = args[0] if args else None
    served = type(input) is Tensor and input.dim() == 4 and input.device == _CPU and input.dtype in DTYPES
    return (to_blocked(input, "batch_norm"),) if served and not stays_ordinary(input) else None


def stays_ordinary(images: Tensor) -> bool:
    """Returns whether so few images are better off outside the layout: in half a vector of it, without gradients.

    Args:
        images: (N, C, H, W), of a dtype that the layout has.
    """
    return not torch.is_grad_enabled() and 2 * len(images) <= lanes(images.dtype)


class _ToBlocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, operation, module):
        ctx.place = f"{operation} backward", module
        return BlockedTensor(blocked_deferred(input, operation, module))

    @staticmethod
    def backward(ctx, grad):
        return _ordinary(grad, *ctx.place), None, None


class _ToOrdinary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, operation, module):
        ctx.place = f"{operation} backward", module
        return ordinary(input, operation, module)

    @staticmethod
    def backward(ctx, grad):
        return to_blocked(grad, *ctx.place), None, None


def _ordinary(tensor: Any, operation: str, module: str | None = None) -> Any:
    """The ordinary tensor of a BlockedTensor, differentiable; anything else as it is."""
    if not isinstance(tensor, BlockedTensor):
        return tensor
    return _ToOrdinary.apply(tensor, operation, running() if module is None else module)


# -- above autograd: which functions may see a BlockedTensor

_LAYERS = {  # handled below autograd
    *("batch_norm", "relu", "relu_", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"),
    *("cat", "concat", "concatenate", "dropout", "dropout_", "dropout2d", "feature_dropout", "sum"),
    *("add", "__add__", "__radd__", "__iadd__", "sub", "__sub__", "__isub__", "neg", "__neg__"),
    *("mul", "multiply", "__mul__", "__rmul__", "__imul__", "div", "__truediv__", "__itruediv__"),
}
_ACTIVATIONS = {  # never a view; some can be told to write in place
    *("relu6", "hardtanh", "leaky_relu", "elu", "selu", "celu", "silu", "mish", "hardsigmoid", "hardswish"),
    *("threshold", "rrelu", "gelu", "tanh", "sigmoid", "alpha_dropout", "dropout1d", "dropout3d"),
}
_ITSELF = {  # asks about the tensor or passes it on
    *("detach", "clone", "contiguous", "to", "cpu", "float", "double", "zeros_like", "ones_like", "empty_like"),
    *("requires_grad_", "retain_grad", "register_hook", "register_post_accumulate_grad_hook", "backward", "grad"),
    *("size", "dim", "ndimension", "numel", "nelement", "is_floating_point", "is_complex", "is_contiguous", "stride"),
    *("__len__", "__hash__", "element_size", "is_pinned", "is_same_size", "has_names", "get_device", "type_as"),
    *("new_empty", "new_zeros", "new_ones", "new_full", "full_like", "rand_like", "randn_like"),
    *("_backward_hooks", "is_set_to", "isfinite", "__repr__", "__reduce_ex__"),
}
_BELOW = _LAYERS | _ACTIVATIONS | _ITSELF
_ACCESSORS = {"__get__", "__set__", "__delete__"}
_VIEWS = {"T", "mT", "H", "mH", "real", "imag"}  # attributes


def _passes(func: Callable, name: str) -> bool:
    """Attributes, in-place methods and the functions above stay; anything else gets ordinary tensors."""
    if name in _BELOW:
        return True
    if name in _ACCESSORS:
        return getattr(getattr(func, "__self__", None), "__name__", "") not in _VIEWS
    return name.endswith("_") and not name.endswith("__")


def _dense(value: Any, operation: str) -> Any:
    """Ordinary tensors in place of blocked ones, in any nest of containers. Differentiable."""
    return tree_map(lambda x: _ordinary(x, operation), value)


def _on_ordinary(func: Callable, name: str, args, kwargs) -> Any:
    """Any other function: on ordinary tensors. A view that it returns is one of a copy."""
    out = kwargs.get("out")
    if isinstance(out, BlockedTensor):
        return out.copy_(_on_ordinary(func, name, args, {key: kwargs[key] for key in kwargs if key != "out"}))
    lent: list[tuple[DeferredValue, Tensor]] = []

    def lend(value):
        if not isinstance(value, BlockedTensor):
            return value
        plain = _ordinary(value, name)
        lent.append((value.deferred, plain))
        return plain

    result = func(*tree_map(lend, args), **tree_map(lend, kwargs))
    # A view is one of a copy, so writes to the tensor would not reach it: they are refused for as long as it lives.
    if not torch.is_inference_mode_enabled() and any(
        isinstance(r, Tensor) and r._is_view() for r in tree_leaves(result)
    ):
        for deferred, plain in lent:
            deferred.lend(plain)
    return result


def _no_address(self, *args, **kwargs):
    raise RuntimeError("a blocked activation has no memory of its own shape; call .dense() on it first")


def _set_item(self, index, value):
    """Item assignment, which for an ordinary tensor writes through a view."""
    if not isinstance(self, BlockedTensor):
        return NotImplemented
    if isinstance(value, Tensor):
        self._deferred.take_back(value._base)  # x[i] += 1 writes into a view of a copy, then hands it in
    changed = _ordinary(self, "__setitem__").clone()  # autograd may have kept the converted one
    changed[_dense(index, "__setitem__")] = _dense(value, "__setitem__")
    return self.copy_(changed)


def _mean(input, dim=None, keepdim=False, **options):
    """The mean over pixels, of which the (N, C) form is a view of the (N, C, 1, 1) form."""
    pixels = isinstance(dim, list | tuple) and sorted(d % 4 for d in dim) == [2, 3]
    if not isinstance(input, BlockedTensor) or not pixels or options:
        return NotImplemented
    if keepdim:
        return torch.mean(input, dim, True)
    return _ordinary(input.mean((2, 3), keepdim=True), "mean").flatten(1)


def _view_as(self, other):
    """The same shape: how autograd makes an alias of what a module with backward hooks passes through."""
    return self.view(other.shape) if isinstance(self, BlockedTensor) and self.shape == other.shape else NotImplemented


_SPECIAL: dict[str, Callable] = {
    "__setitem__": _set_item,
    "mean": _mean,
    "view_as": _view_as,
    **dict.fromkeys(("data_ptr", "storage", "untyped_storage"), _no_address),
}


# -- below autograd


def _run_ordinary(func, args, kwargs):
    """Any other operator: on ordinary tensors; what it wrote into is blocked again."""
    name = str(func)
    plain_args, plain_kwargs = (
        tree_map(lambda x: ordinary(x, name), args),
        tree_map(lambda x: ordinary(x, name), kwargs),
    )
    result = func(*plain_args, **plain_kwargs)
    # By the schema, because a name says nothing: foreach and out= operators write into lists and keywords.
    written = _written(func, args, kwargs), _written(func, plain_args, plain_kwargs)
    pairs = [(given, plain) for given, plain in zip(*written, strict=True) if isinstance(given, BlockedTensor)]
    for given, plain in pairs:
        _write_back(given, plain, name)
    return tree_map(lambda x: next((given for given, plain in pairs if x is plain), x), result) if pairs else result


def _written(func, args, kwargs) -> list[Any]:
    """Returns what an operator writes into, tensors of lists one by one."""
    arguments = enumerate(func._schema.arguments)
    places = [(i, a.name) for i, a in arguments if a.alias_info is not None and a.alias_info.is_write]
    return tree_leaves([args[i] if i < len(args) else kwargs.get(name) for i, name in places])


def _write_back(given: BlockedTensor, plain: Tensor, name: str) -> None:
    if plain.shape != given.shape or plain.dtype != given.dtype:
        raise RuntimeError(
            f"{name} would turn a blocked activation {tuple(given.shape)} into {tuple(plain.shape)} in place; "
            "call .dense() on it first to get an ordinary tensor"
        )
    given.deferred.take(blocked_deferred(plain, name))
