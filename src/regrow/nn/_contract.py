"""The parts of a compressed layer that the modules that serve it use: its identity, its tuning and compiled code."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["CompressedLayer"]


class CompressedLayer(Protocol):
    """A layer that holds its active values and their indices; `SparseLayer` is the one there is.

    Attributes:
        compute: "auto", "sparse" or "dense".
        digest: digest of its active set, as in its state dict.
    """

    compute: str
    digest: Any
    weight: Any
    _parameters: Any
    _buffers: Any
    _identity: Any

    @property
    def active(self) -> int:
        """Number of active weights."""

    @property
    def dense_shape(self) -> torch.Size:
        """Shape of the dense weight."""

    def set_topology(self, positions: Tensor, values: Tensor) -> None:
        """Replaces the active set."""

    def _label(self) -> str: ...

    def _forget(self) -> None: ...

    def _blank(self) -> Any: ...

    def _example(self, where: Any) -> Tensor: ...

    def _run(self, input: Any) -> Any: ...

    def _check_identity(self) -> None: ...
