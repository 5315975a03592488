"""Export and import: one file a format.

Every `save_…` takes a path and a model, sparse or dense, and writes the file whole or not at all.
"""

from .compaction import compact, load_compact, save_compact
from .dense import save_dense
from .masks import from_masks, from_prune
from .onnx import save_onnx
from .sparse_file import load_optimizer, save_safetensors
from .torch_sparse import save_torch_sparse, torch_sparse_state

__all__ = [
    "compact",
    "from_masks",
    "from_prune",
    "load_compact",
    "load_optimizer",
    "save_compact",
    "save_dense",
    "save_onnx",
    "save_safetensors",
    "save_torch_sparse",
    "torch_sparse_state",
]
