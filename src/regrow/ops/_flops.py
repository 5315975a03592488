"""FLOPs of the operators, for `torch.utils.flop_counter.FlopCounterMode`.

Counted as `regrow.flops` does: 2 for each use of an active weight, border effects of padding ignored. The gradients of
input and weight use each active weight as often as the output does.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from typing import Any

import torch

from ._layout import Shape, conv_output_shape

_COUNTER = "torch.utils.flop_counter"


def _linear(input_shape: Shape, weight_shape: Shape, *others: Any, **options: Any) -> int:
    return 2 * weight_shape[0] * input_shape[0]


def _linear_backward(grad_shape: Shape, input_shape: Shape, weight_shape: Shape, *others: Any, **options: Any) -> int:
    want_input, want_weight, _ = others[-3:]
    return _linear(input_shape, weight_shape) * (want_input + want_weight)


def _conv2d(input_shape: Shape, weight_shape: Shape, *others: Any, **options: Any) -> int:
    _bias, _indices, _plan, shape, _lanes, *geometry = others
    batch, _, height, width = conv_output_shape(shape, *geometry)
    return 2 * weight_shape[0] * batch * height * width


def _conv2d_pixels(input_shape: Shape, weight_shape: Shape, *others: Any, **options: Any) -> int:
    _bias, _indices, _plan, *geometry = others
    batch, _, height, width = conv_output_shape(input_shape, *geometry)
    return 2 * weight_shape[0] * batch * height * width


def _conv2d_backward(grad_shape: Shape, input_shape: Shape, weight_shape: Shape, *others: Any, **options: Any) -> int:
    *arguments, want_input, want_weight, _ = others
    return _conv2d(input_shape, weight_shape, None, *arguments) * (want_input + want_weight)


_FORMULAS: dict[str, Callable[..., int]] = {
    "sparse_linear": _linear,
    "sparse_linear_backward": _linear_backward,
    "sparse_conv2d": _conv2d,
    "sparse_conv2d_pixels": _conv2d_pixels,
    "sparse_conv2d_backward": _conv2d_backward,
}


def _register(counter: Any) -> None:
    for name, formula in _FORMULAS.items():
        counter.register_flop_formula(getattr(torch.ops.regrow, name))(formula)


class _WhenImported(MetaPathFinder):
    """Registers the formulas when somebody imports torch's counter.

    To import it here would take longer than all of regrow, since it brings in Triton, where that is installed.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        loader: Any = spec.loader
        run = loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            _register(module)

        loader.exec_module = exec_module
        return spec


def tell_the_counter() -> None:
    """Let torch's counter know the operators, now or when it is imported."""
    if _COUNTER in sys.modules:
        _register(sys.modules[_COUNTER])
    else:
        sys.meta_path.insert(0, _WhenImported())
