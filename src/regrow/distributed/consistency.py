"""Topologies that are the same on every rank: rank 0's at the start, and compared at every update."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from regrow.nn._state import scrambled
from regrow.weights import SparseWeight, among, is_sharded, unwrapped

from .gradient_mean import GradientMean
from .ranks import broadcast_, gather, is_distributed

__all__ = ["assert_ranks_agree", "broadcast_state", "same_generator"]


def broadcast_state(model: nn.Module, weights: Mapping[str, SparseWeight], after_backward: Callable[[], None]) -> None:
    """Gives all ranks rank 0's topology and values and keeps compressed gradients equal; in one process, does nothing.

    Args:
        weights: the sparse weights of the model.
        after_backward: a bound method, see `GradientMean.start`.
    """
    if not is_distributed():
        return
    mean = GradientMean.hang_on(model)
    for weight in weights.values():
        _take_over(weight)
    ours = {id(weight.parameter) for weight in weights.values()}
    ours |= {id(weight.module._buffers[name]) for weight in weights.values() for name in weight.buffers}
    root = unwrapped(model)
    for tensor in (*root.parameters(), *root.buffers()):
        if id(tensor) not in ours and not is_sharded(tensor):
            broadcast_(tensor.detach())
    mean.start(weights, after_backward)


def _take_over(weight: SparseWeight) -> None:
    """Makes the active set and the values of a weight those of rank 0."""
    here = weight.indices
    count = int(broadcast_(torch.tensor([here.numel()], device=here.device)))
    there = broadcast_(here.clone() if dist.get_rank() == 0 else here.new_empty(count))
    weight.move(here[~among(here, there)], there[~among(there, here)], {}, {})
    weight.write(broadcast_(weight.values))


def same_generator(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """The generator, in the state that rank 0's has."""
    if is_distributed():
        generator.set_state(broadcast_(generator.get_state().to(device)).cpu())
    return generator


def assert_ranks_agree(
    weights: Mapping[str, SparseWeight], step: int, generator: torch.Generator | None = None
) -> None:
    """Raises RuntimeError, on all ranks, where they differ in topology, in values or in the state of a generator."""
    if not is_distributed():
        return
    digests = {name: _digest(scrambled(w.indices) ^ _bits(w.values)) for name, w in weights.items()}
    if generator is not None:
        state = generator.get_state().long()
        digests["the random generator"] = _digest(state + 256 * torch.arange(state.numel()))
    device = next(iter(weights.values())).parameter.device
    rows = gather(list(digests.values()), device)
    for name, column in zip(digests, rows.t(), strict=True):
        if others := (column != column[0]).nonzero().flatten().tolist():
            raise RuntimeError(
                f"{name} differs from rank 0's on ranks {', '.join(map(str, others))} at step {step}; ranks must "
                "start from the same state and take every step together. Resume all of them from one checkpoint"
            )


def _bits(values: Tensor) -> Tensor:
    return values.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[values.itemsize]).long()


def _digest(numbers: Tensor) -> int:
    """64 bits of a set of integers: the sum, modulo 2^64, of each one scrambled."""
    return int(scrambled(numbers).sum())
