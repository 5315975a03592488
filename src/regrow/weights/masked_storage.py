"""Masked storage as a type; its weights are those of `masked`, and of `sharded` where FSDP2 has sharded them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .base import SparseWeight, is_sharded
from .gradient_mask import MARK
from .masked import MaskedWeight, mask_parameter, unmask_parameter
from .sharded import ShardedWeight
from .storage import Storage, register

__all__ = ["MaskedStorage"]


class MaskedStorage(Storage):
    """A mask beside the parameter; serves every layer on every device."""

    name = "masked"
    densest_by_itself = 1.0

    def refuses(self, module: nn.Module, parameter: nn.Parameter, elsewhere: Mapping[int, str]) -> str | None:
        return None

    def attach(self, model: nn.Module, module: nn.Module, attribute: str, indices: Tensor, why: str) -> nn.Module:
        shape = module._parameters[attribute].shape  # type: ignore[union-attr]
        mask_parameter(module, attribute, spread_mask(indices, shape), why)
        return model

    def densify(self, model: nn.Module, weight: SparseWeight) -> nn.Module:
        assert isinstance(weight, MaskedWeight)
        unmask_parameter(weight)
        return model

    def attributes(self, module: nn.Module) -> Iterable[str]:
        return module.__dict__.get(MARK, {})

    def weight(self, name: str, module: nn.Module, attribute: str) -> SparseWeight:
        kind = ShardedWeight if is_sharded(module._buffers[f"{attribute}_mask"]) else MaskedWeight
        return kind(name, module, attribute)

    def state_keys(self, name: str) -> tuple[str, ...]:
        return (f"{name}_mask",)

    def indices_in(self, state: Mapping[str, Any], name: str) -> Tensor | None:
        return state.get(f"{name}_mask")

    def state_of(self, name: str, values: Tensor, indices: Tensor, shape: Iterable[int]) -> dict[str, Tensor]:
        size = torch.Size(shape)
        dense = values.new_zeros(size.numel()).index_copy_(0, indices.long(), values).view(size)
        return {name: dense, f"{name}_mask": spread_mask(indices.long(), size)}


def spread_mask(indices: Tensor, shape: torch.Size) -> Tensor:
    """Returns a mask of a dense shape, True at flat indices."""
    mask = torch.zeros(shape.numel(), dtype=torch.bool, device=indices.device)
    return mask.index_fill_(0, indices, True).view(shape)


register(MaskedStorage())
