"""BlockedTensor: an activation in the kernels' layout that looks like the ordinary (N, C, H, W) tensor.

A sparse convolution makes one, or the batch norm behind a dense one, and what follows keeps it, so that a network
converts once at each end:

    x = to_blocked(images)   # a torch.Tensor to everybody: shape, dtype, requires_grad, autograd, hooks
    y = net(x)               # convolution, batch norm, relu, pools, sums, concatenation, dropout: on blocked data
    y.flatten(1)             # anything else gets an ordinary tensor first

Autograd, hooks and checkpoints are torch's own: the class is a wrapper subclass, and operators are
intercepted below autograd (`__torch_dispatch__`), where a value may also be left uncomputed until somebody
needs it (`deferred.py`). Functions that may return a view convert above autograd, so that no view of blocked data
is ever claimed.
"""

from . import backward, forward  # noqa: F401  they fill the table of handlers
from .conversions import Conversion, recording, trace
from .convolution import SparseConv2dBlocked
from .tensor import BlockedTensor, blocked_data, blocked_inputs, ordinary, ordinary_outputs, stays_ordinary, to_blocked

__all__ = [
    "BlockedTensor",
    "Conversion",
    "SparseConv2dBlocked",
    "blocked_data",
    "blocked_inputs",
    "ordinary",
    "ordinary_outputs",
    "recording",
    "stays_ordinary",
    "to_blocked",
    "trace",
]
