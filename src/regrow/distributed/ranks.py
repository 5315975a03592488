"""Collectives over the ranks of the default process group. All ranks must call them, or the callers wait forever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["broadcast_", "gather", "gather_objects", "is_distributed", "largest", "mean_", "own_of"]


def is_distributed() -> bool:
    """Returns whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@torch.no_grad()
def mean_(tensor: Tensor) -> Tensor:
    """Replaces a tensor by its mean over ranks, which has the same bits everywhere."""
    tensor.div_(dist.get_world_size())
    whole = tensor.contiguous()
    dist.all_reduce(whole)
    return tensor if whole is tensor else tensor.copy_(whole)


@torch.no_grad()
def broadcast_(tensor: Tensor) -> Tensor:
    """Replaces a tensor by that of rank 0, of the same shape and dtype."""
    whole = tensor.contiguous()
    dist.broadcast(whole.view(torch.uint8) if whole.dtype == torch.bool else whole, src=0)
    return tensor if whole is tensor else tensor.copy_(whole)


def largest(numbers: Sequence[int], device: torch.device) -> list[int]:
    """The largest of each number over ranks."""
    tensor = torch.tensor(numbers, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor.tolist()


def gather(numbers: Sequence[int], device: torch.device) -> Tensor:
    """The numbers of every rank, int64, shape (ranks, len(numbers))."""
    own = torch.tensor(numbers, device=device)
    rows = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, own)
    return torch.stack(rows)


def gather_objects(value: Any) -> list[Any]:
    """Returns what every rank has, in their order, on rank 0; nothing elsewhere. Also in a single process."""
    if not is_distributed():
        return [value]
    values = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, values)
    return values or []


def own_of(values: Sequence[Any]) -> Any:
    """Returns this rank's part of `gather_objects`' result. Raises ValueError if the number of ranks has changed."""
    number, rank = (dist.get_world_size(), dist.get_rank()) if is_distributed() else (1, 0)
    if len(values) != number:
        raise ValueError(
            f"the checkpoint was saved by {len(values)} processes, each with its own state, but is loaded by "
            f"{number}; resume with {len(values)}"
        )
    return values[rank]
