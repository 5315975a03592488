"""Sparse weights: what they are (`base`), how they are stored (`masked`), and where they are (`find`)."""

from .base import SparseWeight, put
from .find import plain_name, sparse_weights, unwrapped
from .masked import MaskedWeight, mask_parameter, unmask_parameter

__all__ = [
    "MaskedWeight",
    "SparseWeight",
    "mask_parameter",
    "plain_name",
    "put",
    "sparse_weights",
    "unmask_parameter",
    "unwrapped",
]
