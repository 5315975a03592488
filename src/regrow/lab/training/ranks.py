"""The processes that train one run together. Alone, a process is all of them, and nothing here does anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from regrow.distributed import gather_objects
from regrow.lab.data.split import Drawn
from regrow.lab.errors import RunError, UsageError, unknown
from regrow.lab.fabric import Fabric
from regrow.lab.recipes.recipe import Recipe

__all__ = ["STRATEGIES", "Ranks", "launch"]

STRATEGIES = ("auto", "ddp")
Result = TypeVar("Result")


def launch(recipe: Recipe, devices: int = 1, nodes: int = 1, strategy: str = "auto") -> Fabric:
    """Starts the other processes of this machine, where nobody has (torchrun has), and joins all of them together.

    Args:
        devices: processes on each machine.
        nodes: machines.
        strategy: "ddp" (DistributedDataParallel), or "auto", which is "ddp" for more than one process.
    """
    if strategy not in STRATEGIES:
        raise unknown("strategy", strategy, STRATEGIES)
    for name, value in (("devices", devices), ("nodes", nodes)):
        if value < 1:
            raise UsageError(f"{name}={value} must be at least 1")
    chosen = "ddp" if devices * nodes > 1 else strategy
    fabric = Fabric(
        accelerator=recipe.accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=chosen,
        precision=recipe.precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


class Ranks:
    """Communication among ranks.

    Attributes:
        number: number of ranks.
        rank: which of them this process is, from 0; rank 0 alone writes files.
    """

    def __init__(self, fabric: Fabric):
        self._fabric = fabric
        self.number: int = fabric.world_size
        self.rank: int = fabric.global_rank

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agree(self, make: Callable[[], Result]) -> Result:
        """Returns what rank 0 makes, on all ranks; where it raises a RunError, all do."""
        result, error = None, None
        if self.first:
            try:
                result = make()
            except RunError as raised:
                error = raised
        result, error = self._fabric.broadcast((result, error))
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def any(self, holds: bool) -> bool:
        """Returns whether it holds on any rank."""
        return holds if self.number == 1 else self.sum(torch.tensor(int(holds), device=self._fabric.device)) > 0

    def sum(self, count: Tensor) -> int:
        """The sum of a whole number over ranks."""
        return int(self._fabric.all_reduce(count, reduce_op="sum"))  # type: ignore[arg-type]

    def mean(self, value: Tensor) -> float:
        """The mean over ranks."""
        return float(self._fabric.all_reduce(value, reduce_op="mean"))  # type: ignore[arg-type]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on rank 0; nothing elsewhere."""
        return gather_objects(value)

    def wait(self) -> None:
        """Returns when all ranks have come here."""
        self._fabric.barrier()

    def part(self, index: Tensor, moves: Tensor | None) -> Drawn:
        """Returns this rank's part of a batch; parts differ by at most one example, and none is empty."""
        if self.number == 1:
            return index, moves
        own = index.tensor_split(self.number)[self.rank]
        if not len(own):
            return index[:1], None if moves is None else moves[:1]
        return own, None if moves is None else moves.tensor_split(self.number)[self.rank]

    def share(self, examples: int) -> float:
        """Returns the weight of this rank's mean loss in the mean over ranks; 0 for an empty part."""
        own = len(range(self.rank, examples, self.number))
        return own * self.number / examples

    def same_statistics(self, model: nn.Module) -> None:
        """Gives all ranks rank 0's floating-point buffers: statistics of batch norms, which differ between ranks."""
        if self.number > 1:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    torch.distributed.broadcast(buffer, src=0)
