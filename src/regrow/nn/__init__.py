"""Layers that hold and compute only their active weights."""

from . import tuning
from ._layer import SparseLayer
from .blocked import BlockedTensor, to_blocked
from .conv2d import SparseConv2d
from .linear import SparseLinear

__all__ = ["BlockedTensor", "SparseConv2d", "SparseLayer", "SparseLinear", "to_blocked", "tuning"]
