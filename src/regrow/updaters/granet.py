"""GraNet: gradual pruning that regrows what it pruned too much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import regrow.criteria as criteria
from regrow.redistribution import to_density
from regrow.schedules import cosine_decay, cubic_density

from .composed import ComposedUpdater
from .final_density import final_step, initial_density

__all__ = ["GraNet"]


class GraNet(ComposedUpdater):
    """Gradual pruning with zero-cost neuroregeneration (Liu et al. 2021, arXiv:2106.10404, section 4).

    An update prunes the smallest weights of the network, down to a density that falls as a cubic from that of the model
    to `density`. Then each layer replaces a fraction of its weights: it prunes those of smallest magnitude and grows
    those of largest gradient in the last step. Grown weights start at 0, with momentum 0 and their layer's mean second
    moment.

    Args:
        model: sparse at the density at which the training starts: 1.0 (dense to sparse), or less, such as the paper's
            0.5 (sparse to sparse); in masked storage, or masked until it is sparse (`sparsify(compress_below=...)`).
        optimizer: any.
        total_steps: optimizer steps T of the whole training; after it nothing changes.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`.
        density: final density, in (0, 1), at most that of the model.
        prune_rate: fraction of weights that the first update replaces, in [0, 1); it falls as half a cosine to 0 at T.
        begin: fraction of T at which the density starts to fall, 0 <= begin < end < 1.
        end: fraction of T at which the density stops falling.
        scope: "global" (the authors': prune the smallest weights of all layers) or "local".
        window_batch: number of examples of a batch used for the dense gradient of compressed weights; None: all.

    Raises:
        ValueError: as `ComposedUpdater`; no update comes after `end`; or the model is sparser than `density`. Nothing
            is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 0.5, compress_below=0.3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.GraNet(model, optimizer, total_steps=54_000, update_every=540, density=0.05)
    """

    method = "granet"
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
        prune_rate: float = 0.5,
        begin: float = 0.0,
        end: float = 0.75,
        scope: str = "global",
        window_batch: int | None = None,
    ):
        last = final_step(model, density, total_steps, update_every, end)
        self._initial_density = initial_density(model, density)

        def falling(step: int) -> float:
            return cubic_density(self._initial_density, density, begin * total_steps, last)(step)

        falling(0)  # refuses what cannot be
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=cosine_decay(prune_rate, end=max(total_steps, 1)),
            prune=criteria.magnitude,
            target=to_density(falling, scope),
            grow=criteria.inactive_gradient,
            collect="gradient",
            window_batch=window_batch,
            seed=0,
        )

    def _own_state(self) -> dict[str, Any]:
        return {"initial_density": self._initial_density}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        self._initial_density = state["initial_density"]
