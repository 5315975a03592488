"""Operators of compressed layers: native kernels where they were built, plain torch everywhere else.

`torch.ops.regrow.*` are the operators (schemas in `_schemas.py`), differentiable and known to `opcheck`, profilers and
`torch.compile`. `info()` says what they run on.
"""

from regrow.ops import _schemas as _schemas  # the operators exist before the library that overrides them
from regrow.ops import _autograd as _autograd  # isort: skip
from regrow.ops._native import available_isas, info, warn_if_absent
from regrow.ops._layout import blocked_size, conv_output_shape, lanes

__all__ = ["available_isas", "blocked_size", "conv_output_shape", "info", "lanes"]

warn_if_absent()
