"""Sparse weights: what they are (`base`), how they are stored (`masked`, `compressed`), where they are (`find`), and
the gradient of all their positions until the optimizer steps (`staged`)."""

from . import compressed as compressed  # storages register themselves, the most special first
from . import masked_storage as masked_storage
from .base import SparseWeight, Switch, among, hook_gradients, is_sharded, local, put
from .compressed import CompressedWeight
from .find import Places, plain_name, sparse_weights, unwrapped
from .gradient_mask import GradientMask
from .masked import MaskedWeight, mask_parameter, unmask_parameter
from .sharded import ShardedWeight, shard_masks
from .staged import StagedGradient
from .switching import change_storage, follow_state, keep_switch, storage_due

__all__ = [
    "CompressedWeight",
    "GradientMask",
    "MaskedWeight",
    "Places",
    "ShardedWeight",
    "SparseWeight",
    "StagedGradient",
    "Switch",
    "among",
    "change_storage",
    "follow_state",
    "hook_gradients",
    "is_sharded",
    "keep_switch",
    "local",
    "mask_parameter",
    "plain_name",
    "put",
    "shard_masks",
    "sparse_weights",
    "storage_due",
    "unmask_parameter",
    "unwrapped",
]
