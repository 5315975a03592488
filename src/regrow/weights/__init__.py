"""Sparse weights: what they are (`base`), how they are stored (`masked`, `compressed`), where they are (`find`)."""

from .base import SparseWeight, put
from .compressed import CompressedWeight
from .find import plain_name, sparse_weights, unwrapped
from .masked import MaskedWeight, mask_parameter, unmask_parameter

__all__ = [
    "CompressedWeight",
    "MaskedWeight",
    "SparseWeight",
    "mask_parameter",
    "plain_name",
    "put",
    "sparse_weights",
    "unmask_parameter",
    "unwrapped",
]
