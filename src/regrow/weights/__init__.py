"""Sparse weights: what they are (`base`), how they are stored (`masked`, `compressed`), where they are (`find`), and
the gradient of all their positions until the optimizer steps (`staged`)."""

from .base import SparseWeight, among, is_sharded, local, put
from .compressed import CompressedWeight
from .find import further_paths, module_path, plain_name, sparse_weights, unwrapped
from .masked import MaskedWeight, mask_parameter, unmask_parameter
from .sharded import ShardedWeight, shard_masks
from .staged import StagedGradient

__all__ = [
    "CompressedWeight",
    "MaskedWeight",
    "ShardedWeight",
    "SparseWeight",
    "StagedGradient",
    "among",
    "further_paths",
    "is_sharded",
    "local",
    "mask_parameter",
    "module_path",
    "plain_name",
    "put",
    "shard_masks",
    "sparse_weights",
    "unmask_parameter",
    "unwrapped",
]
