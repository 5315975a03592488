"""Layers that hold and compute only their active weights."""

from regrow.nn import tuning
from regrow.nn._layer import SparseLayer
from regrow.nn.blocked import BlockedTensor, to_blocked
from regrow.nn.conv2d import SparseConv2d
from regrow.nn.linear import SparseLinear

__all__ = ["BlockedTensor", "SparseConv2d", "SparseLayer", "SparseLinear", "to_blocked", "tuning"]
