"""Masked storage whose parameter FSDP2 has sharded: a DTensor, as `fully_shard` makes them, and its mask like it.

What a training step does, it does with the shard of this process. An update gathers one layer at a time, so all
processes have to ask for `indices`, `values` and `active` together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .base import is_sharded, local, put
from .gradient_mask import MARK
from .masked import MaskedTap, MaskedWeight
from .tap import GradientListener, GradientTap

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["ShardedWeight", "shard_masks"]


class ShardedWeight(MaskedWeight):
    """A sparse weight in masked storage, sharded along its first dimension."""

    @property
    def shape(self) -> torch.Size:
        return self._mask.shape

    @property
    def active(self) -> int:
        return self.indices.numel()

    @property
    def indices(self) -> Tensor:
        return self.whole(self._mask).nonzero().squeeze(1)

    def tap(self, listener: GradientListener, window_batch: int | None = None) -> GradientTap:
        return ShardedTap(self, self._gradient_mask, listener)

    @property
    def _mask(self) -> DTensor:
        return self.module._buffers[f"{self.attribute}_mask"]  # type: ignore[return-value]

    def whole(self, tensor: Tensor) -> Tensor:
        """Returns all positions, flat, on every process."""
        return self.pack(tensor).full_tensor().reshape(-1)

    def pack(self, tensor: Tensor) -> Any:
        if is_sharded(tensor):
            return tensor
        from torch.distributed.tensor import DTensor

        like = self._mask
        return DTensor.from_local(
            tensor, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )

    def take(self, tensor: Tensor) -> Tensor:
        return self.pick(tensor, self.indices)

    def pick(self, tensor: Tensor, positions: Tensor) -> Tensor:
        return self.whole(tensor).take(positions)

    def place(self, tensor: Tensor, positions: Tensor, values: Tensor | float | bool) -> None:
        """Writes those that lie in the shard of this process."""
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        shape, offset = compute_local_shape_and_global_offset(self.shape, self._mask.device_mesh, self._mask.placements)
        first = offset[0] * (self.shape[1:].numel())
        own = (positions >= first) & (positions < first + torch.Size(shape).numel())
        put(local(tensor), positions[own] - first, values[own] if isinstance(values, Tensor) else values)

    def sample(self, size: int) -> Tensor:
        indices = self._gradient_mask.indices
        return indices[:: max(1, indices.numel() // max(size, 1))]


class ShardedTap(MaskedTap):
    """A tap of a sharded parameter, whose gradients FSDP2 has averaged."""

    averaged = True


def shard_masks(model: nn.Module) -> None:
    """Shards the masks of parameters that are sharded, as these are; they become those of rank 0."""
    for module in model.modules():
        for attribute, marker in module.__dict__.get(MARK, {}).items():
            parameter, mask = module._parameters[attribute], marker.buffer
            if not is_sharded(parameter) or is_sharded(mask):
                continue
            from torch.distributed.tensor import Replicate, Shard, distribute_tensor

            if any(place not in (Replicate(), Shard(0)) for place in parameter.placements):  # type: ignore[union-attr]
                raise ValueError(
                    f"{attribute} of a {type(module).__name__} is sharded by {parameter.placements}; masks can only "  # type: ignore[union-attr]
                    "follow fully_shard's own placement, Shard(0)"
                )
            module._buffers[f"{attribute}_mask"] = distribute_tensor(
                mask,
                parameter.device_mesh,  # type: ignore[union-attr]
                parameter.placements,  # type: ignore[union-attr]
            )
