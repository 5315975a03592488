"""Entries of a state dict for a sparse weight: entries of both storages, the digest of an active set, its history.

An active set has an identity, so that values of one are never taken for those of another: its digest, two integers
below 2^20, beside the positions. They are small, so that they come back exactly from arithmetic in float32, as
averages of state dicts do it: the mean of equal digests is that digest, the mean of others is the digest of nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "AVERAGE",
    "ENTRIES",
    "LAST_UPDATE",
    "digest_of",
    "expand_compressed",
    "is_compressed_state",
    "scrambled",
    "take_active",
    "true_indices",
    "warn_dense_state",
]

LAST_UPDATE = "regrow_last_update"
"""Key in the metadata of a module's state: the number of optimizer steps before its last topology update."""

AVERAGE = (
    "averages of sparse models are made by regrow.integrations.averaging: AveragedModel for EMA, SWA and target "
    "networks, average(models) for federated means and the like"
)

ENTRIES = ("indices", "tuned", "digest")
"""Buffers of a compressed layer that its state dict has beside the values."""

_BITS = 20


def scrambled(numbers: Tensor) -> Tensor:
    """Maps each integer to 64 bits that look random (as SplitMix64 does)."""
    mixed = numbers * -7046029254386353131
    mixed = (mixed ^ (mixed >> 30)) * -4658895280553007687
    return mixed ^ (mixed >> 27)


def digest_of(indices: Tensor) -> tuple[int, int]:
    """Two integers in [0, 2^20) that tell active sets apart; indices: (active,), any integers."""
    total = int(scrambled(scrambled(indices.detach().long() + 1)).sum())
    return total & (1 << _BITS) - 1, total >> _BITS & (1 << _BITS) - 1


def is_compressed_state(state: Mapping[str, Any], prefix: str) -> bool:
    """Returns whether the state of a module is that of a compressed layer."""
    indices, values = state.get(prefix + "indices"), state.get(prefix + "weight")
    return indices is not None and values is not None and values.shape == (indices.numel(), 1)


def true_indices(state: Mapping[str, Any], prefix: str) -> Tensor:
    """The indices in the state of a compressed layer, as integers.

    Raises:
        ValueError: they are not those of the digest beside them: several states have been averaged.
    """
    indices, digest = state[prefix + "indices"], state.get(prefix + "digest")
    if digest is None:  # of an earlier version
        return indices
    whole, digest = (_whole(tensor) for tensor in (indices, digest))
    if list(digest_of(whole)) != digest.tolist():
        raise ValueError(
            f"{prefix}indices: the state mixes active sets: its indices do not match its digest, as "
            f"when state dicts are averaged entry by entry; {AVERAGE}"
        )
    return whole


def _whole(tensor: Tensor) -> Tensor:
    return tensor.round().long() if tensor.is_floating_point() else tensor


def expand_compressed(state: dict[str, Any], prefix: str, shape: torch.Size) -> None:
    """Makes the entries of a compressed layer those of a masked one of this dense shape."""
    indices = true_indices(state, prefix).long()
    values = state[prefix + "weight"]
    for name in ENTRIES:
        state.pop(prefix + name, None)
    dense, mask = values.new_zeros(shape.numel()), values.new_zeros(shape.numel(), dtype=torch.bool)
    dense[indices], mask[indices] = values.squeeze(1), True
    state[prefix + "weight"], state[prefix + "weight_mask"] = dense.view(shape), mask.view(shape)


def take_active(state: dict[str, Any], prefix: str, indices: Tensor) -> None:
    """Makes the dense weight in a state, which has no mask, that of a compressed layer with these indices."""
    dense = state[prefix + "weight"]
    values = dense.reshape(-1)[indices.long().to(dense.device)].unsqueeze(1)
    state[prefix + "weight"], state[prefix + "indices"] = values, indices
    if dropped := int(torch.count_nonzero(dense)) - int(torch.count_nonzero(values)):
        warn_dense_state(prefix + "weight", dropped, dense.numel())


def warn_dense_state(name: str, dropped: int, numel: int) -> None:
    warnings.warn(
        f"{name}: the state is dense, and {dropped:,} of its {numel:,} weights are inactive here; they are dropped. "
        "To keep the largest weights of a dense model, load it first, then call regrow.sparsify(model, density, "
        "init='magnitude')",
        stacklevel=2,
    )
