"""Guided stochastic exploration."""

from __future__ import annotations

import torch
from torch import nn

import regrow.criteria as criteria
from regrow.redistribution import by_rate, check_scope, globally
from regrow.schedules import cosine_decay

from .composed import ComposedUpdater

__all__ = ["GSE"]


class GSE(ComposedUpdater):
    """Guided stochastic exploration (Heddes et al. 2024, arXiv:2401.06898, section 3 and algorithm 1).

    At an update each layer prunes its weights of smallest magnitude. It then draws a sample of inactive positions, as
    many as it has weights, and grows those with the largest gradient in the last step. A position is drawn in
    proportion to the activity of its input and the gradient of its output, which together bound its own gradient. Only
    the gradients of the sample are computed, so an update costs as much in a wide layer as in a narrow one with as many
    weights. Grown weights start at 0, with momentum 0 and their layer's mean second moment.

    Args:
        model: a model from `sparsify`; the paper has distribution="er".
        optimizer: any.
        total_steps: optimizer steps T of the whole training.
        update_every: optimizer steps between updates, 1 to T (the paper: 1,000); None: by hand, with `update()`.
        prune_rate: alpha, fraction of weights that the first update replaces, in [0, 1); it falls as half a cosine.
        stop_fraction: fraction of the training after which the topology is final, in (0, 1].
        candidates: gamma, positions in the sample for each active weight, above 0; many make it RigL, few make it SET.
        sampling: "activity" (GraBo in the paper) or "uniform".
        scope: "local": each layer grows as many weights as it prunes; "global" (the authors' default): prunes the
            smallest weights of the whole network, and grows the largest gradients of all samples.
        window_batch: number of examples of a batch that gradients of compressed weights are computed from; None: all.
        seed: seed of the samples; None draws one from torch's global generator.

    Raises:
        ValueError: as `ComposedUpdater`, and if weights are sharded; nothing is changed.

    Example:
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.GSE(model, optimizer, total_steps=54_000, update_every=1_000, seed=0)
    """

    method = "gse"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        prune_rate: float = 0.2,
        stop_fraction: float = 0.75,
        candidates: float = 1.0,
        sampling: str = "activity",
        scope: str = "local",
        window_batch: int | None = None,
        seed: int | None = None,
    ):
        self._candidates = candidates
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=cosine_decay(prune_rate, end=max(stop_fraction * total_steps, 1)),
            prune=criteria.magnitude,
            grow=criteria.sampled_gradient(candidates, sampling),
            collect="sampled-gradient",
            amount=globally if check_scope(scope) == "global" else by_rate,
            growth_scope=scope,
            stop_fraction=stop_fraction,
            window_batch=window_batch,
            seed=seed,
        )

    def _set_collecting(self) -> None:
        super()._set_collecting()
        for name, collector in self._collectors.items():
            if collector.collecting:
                weight = self._weights[name]
                collector.tap.need(min(weight.active + round(self._candidates * weight.active), weight.numel))
