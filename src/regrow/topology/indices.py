"""Active sets: checks of them and of their values, with errors that name the layer; and how a mask becomes one."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.ops._dtypes import DTYPE_NAMES, DTYPES

LIMIT = 2**31 - 1
"""Positions that int32 can tell apart, and up to which a weight is ever made dense."""


def index_dtype(positions: int) -> torch.dtype:
    """Returns the smallest dtype that holds the indices of a weight of so many positions."""
    return torch.int32 if positions <= LIMIT else torch.int64


def check_dense(layer: str, positions: int) -> None:
    """Raise where a weight of so many positions is to be made dense."""
    if positions > LIMIT:
        raise ValueError(
            f"{layer}: a dense tensor of its {positions:,} positions takes {4 * positions / 1e9:,.0f} GB; train, save "
            "and load it in compressed storage"
        )


def check_positions(layer: str, positions: Tensor, limit: int) -> None:
    """Raise unless `positions` is a 1-D int64 (or int32) CPU tensor, ascending, unique, in [0, limit)."""
    if positions.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{layer}: positions are {positions.dtype}, wanted int64; call .long() on them")
    if positions.dim() != 1:
        raise ValueError(f"{layer}: positions have shape {tuple(positions.shape)}, wanted (active,); flatten them")
    if positions.device.type != "cpu":
        raise ValueError(f"{layer}: positions are on {positions.device}, wanted cpu; call .cpu() on them")
    if positions.numel() == 0:
        return
    low, high = (int(end) for end in torch.aminmax(positions))
    if low < 0 or high >= limit:
        raise ValueError(
            f"{layer}: position {low if low < 0 else high} is out of range, wanted 0 <= position < {limit}"
        )
    step = positions[1:] - positions[:-1]
    if bool((step <= 0).any()):
        at = int((step <= 0).nonzero()[0])
        what = "twice" if int(step[at]) == 0 else "out of order"
        raise ValueError(
            f"{layer}: position {int(positions[at + 1])} comes {what}, after {int(positions[at])} "
            f"at place {at + 1}; wanted ascending and unique, e.g. positions.unique()"
        )


def check_values(layer: str, values: Tensor, positions: Tensor, dtype: torch.dtype) -> None:
    """Raise unless there is one value of this dtype for each position."""
    if values.dtype != dtype:
        raise TypeError(f"{layer}: values are {values.dtype}, the layer is {dtype}; call .to({dtype}) on them")
    if values.numel() != positions.numel():
        raise ValueError(f"{layer}: {values.numel()} values for {positions.numel()} positions, wanted one for each")


def check_mask(layer: str, mask: Tensor, shape: torch.Size) -> None:
    """Raise unless `mask` is boolean and of the weight's shape."""
    if mask.dtype != torch.bool:
        raise TypeError(f"{layer}: mask is {mask.dtype}, wanted bool; write mask != 0")
    if mask.shape != shape:
        raise ValueError(f"{layer}: mask has shape {tuple(mask.shape)}, wanted that of the weight, {tuple(shape)}")


def check_real(layer: str, dtype: torch.dtype, device: torch.device) -> None:
    """Raise unless a layer of this dtype and device can be compressed."""
    if dtype not in DTYPES:
        raise TypeError(f"{layer}: weight is {dtype}; compressed layers are {DTYPE_NAMES}. Call .float() first")
    if device.type != "cpu":
        raise ValueError(f"{layer}: weight is on {device}; compressed layers are on the CPU. Use masked storage there")


def active_positions(layer: str, weight: Tensor, mask: Tensor | None, positions: Tensor | None) -> Tensor:
    """Ascending flat positions: those given, those of a mask, or those of the non-zero weights."""
    check_real(layer, weight.dtype, torch.device("cpu") if weight.is_meta else weight.device)
    if positions is not None:
        return positions
    if mask is None:
        if weight.is_meta:
            raise ValueError(f"{layer}: a weight on the meta device has no values; give positions=")
        mask = weight.detach() != 0
    check_mask(layer, mask, weight.shape)
    return mask.detach().cpu().reshape(-1).nonzero().view(-1)
