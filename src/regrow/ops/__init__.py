"""Operators of compressed layers: native kernels where they were built, plain torch everywhere else.

`torch.ops.regrow.*` are the operators (schemas in `_schemas.py`), known to `opcheck`, profilers and `torch.compile`.
`to_blocked`, `from_blocked`, `sparse_linear` and `sparse_conv2d` are differentiable; the others are what
`BlockedTensor` calls below autograd. `info()` says what they run on.
"""

from ._allocator import keep_pages
from ._autograd import Arguments
from ._dtypes import DTYPES
from ._flops import tell_the_counter
from ._layout import blocked_size, conv_output_shape, lanes
from ._native import available_isas, info, isa, warn_if_absent
from .functional import (
    conv2d_arguments,
    conv2d_plan,
    conv2d_weight_grad,
    conv2d_weight_grad_at,
    dense_product,
    linear_plan,
    linear_weight_grad_at,
    pixel_plan,
    plan_bytes,
    sparse_conv2d_nchw,
    sparse_conv2d_pixels,
    sparse_linear,
)
from .winograd import conv2d_weight_grad_winograd, winograd_pays

__all__ = [
    "DTYPES",
    "Arguments",
    "available_isas",
    "blocked_size",
    "conv2d_arguments",
    "conv2d_plan",
    "conv2d_weight_grad",
    "conv2d_weight_grad_at",
    "conv2d_weight_grad_winograd",
    "conv_output_shape",
    "dense_product",
    "info",
    "isa",
    "keep_pages",
    "lanes",
    "linear_plan",
    "linear_weight_grad_at",
    "pixel_plan",
    "plan_bytes",
    "sparse_conv2d_nchw",
    "sparse_conv2d_pixels",
    "sparse_linear",
    "winograd_pays",
]

warn_if_absent()
tell_the_counter()
