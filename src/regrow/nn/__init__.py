"""Layers that hold and compute only their active weights."""

from regrow.nn import tuning
from regrow.nn.conv2d import SparseConv2d
from regrow.nn.linear import SparseLinear

__all__ = ["SparseConv2d", "SparseLinear", "tuning"]
