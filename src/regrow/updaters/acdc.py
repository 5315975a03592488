"""AC/DC: sparse and dense phases in turn."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import regrow.criteria as criteria
from regrow.redistribution import to_density
from regrow.schedules import Schedule, step_at

from .composed import ComposedUpdater
from .final_density import final_step, never

__all__ = ["ACDC"]


class ACDC(ComposedUpdater):
    """Alternating compressed and decompressed training (Peste et al. 2021, arXiv:2106.12379, section 3).

    Starts dense. After a dense warm-up, sparse phases alternate with dense ones. Sparse phases train only the largest
    weights of the network; in dense phases the others start from 0 again. The last phase is sparse.

    Args:
        model: `sparsify(model, 1.0, storage="masked")`, or `compress_below=0.3` for layers that become compressed.
        optimizer: any.
        total_steps: optimizer steps T of the whole training; after it nothing changes.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`. A phase begins with the
            first update at or after its time.
        density: density of the sparse phases, in (0, 1).
        warmup: fraction of T that is dense at the start (the paper: 10 of 100 epochs).
        phase: fraction of T that each phase takes (the paper: 5 of 100); the dense phase before the last takes twice as
            long.
        final: fraction of T of the last, sparse phase (the paper: 15 of 100).
        scope: "global" (the paper: the largest weights of all layers) or "local" (each layer has this density).

    Raises:
        ValueError: as `ComposedUpdater`, and if no update comes in the last phase; nothing is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 1.0, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.ACDC(model, optimizer, total_steps=54_000, update_every=540, density=0.05)
    """

    method = "ac-dc"
    starts_dense = True
    updates = 100

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        density: float,
        warmup: float = 0.1,
        phase: float = 0.05,
        final: float = 0.15,
        scope: str = "global",
    ):
        final_step(model, density, total_steps, update_every, 1 - final)
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=never,
            prune=criteria.magnitude,
            target=to_density(_phases(density, warmup, phase, final, total_steps), scope),
            grow=_everything,
            seed=0,
        )


def _phases(density: float, warmup: float, phase: float, final: float, total_steps: int) -> Schedule:
    """The density of each step of AC/DC."""
    if not (warmup >= 0 and phase > 0 and final > 0 and warmup + 2 * phase + final <= 1):
        raise ValueError(
            f"warmup={warmup}, two phases of phase={phase} and final={final} must be fractions that fit into 1"
        )

    first, last = step_at(warmup, total_steps), step_at(1 - final, total_steps)
    last_dense = step_at(1 - final - 2 * phase, total_steps)

    def schedule(step: int) -> float:
        if step >= last:
            return density
        if step < first or step >= last_dense:
            return 1.0
        phases_over = math.floor((step / total_steps - warmup) / phase + 1e-9)
        return density if phases_over % 2 == 0 else 1.0

    return schedule


def _everything(layer: criteria.Layer) -> Tensor:
    """Grow score where all that is missing grows."""
    return torch.zeros(layer.numel, device=layer.indices.device)
