"""Sparse weights: what they are (`base`), how they are stored (`masked`, `compressed`), where they are (`find`), and
the gradient of all their positions until the optimizer steps (`staged`)."""

from .base import SparseWeight, among, put
from .compressed import CompressedWeight
from .find import plain_name, sparse_weights, unwrapped
from .masked import MaskedWeight, mask_parameter, unmask_parameter
from .staged import StagedGradient

__all__ = [
    "CompressedWeight",
    "MaskedWeight",
    "SparseWeight",
    "StagedGradient",
    "among",
    "mask_parameter",
    "plain_name",
    "put",
    "sparse_weights",
    "unmask_parameter",
    "unwrapped",
]
