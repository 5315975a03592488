"""UpdatePlan: which weights an update prunes and grows. It decides, and changes nothing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import torch
from torch import Tensor

import regrow.topology as topology
from regrow.criteria import GrowScore, Importance, PruneScore, magnitude
from regrow.redistribution import Amount, PruneRequest, RedistributionRequest, RedistributionRule, Target, keep_counts
from regrow.topology.lazy import ComparableScores, LazyScores, SampledScores

from .layer_view import LayerView, is_finite

__all__ = ["LayerUpdate", "UpdatePlan", "check_finite"]


@dataclass(frozen=True)
class LayerUpdate:
    """The changes of one layer in an update: indices that are pruned and grown, ascending."""

    layer: LayerView
    pruned: Tensor
    grown: Tensor
    importance: float


@dataclass(frozen=True)
class UpdatePlan:
    """The parts of a method; see `ComposedUpdater`."""

    prune: PruneScore
    grow: GrowScore | None
    importance: Importance | None
    redistribution_rule: RedistributionRule
    amount: Amount
    target: Target
    per_neuron: bool
    max_density: float
    growth_scope: str = "local"

    def plan(
        self,
        layers: Sequence[LayerView],
        step: int,
        rate: float,
        flops_left: Callable[[], float | None],
        idle: Collection[str] = (),
    ) -> list[LayerUpdate]:
        """The moves of one update, one a layer.

        Args:
            layers: those that take part.
            flops_left: the FLOPs that these layers may cost together, where there is a limit.
            idle: names of layers that were not trained, as where they are frozen: they come down to their target, by
                magnitude, and exchange and grow nothing.

        Raises:
            FloatingPointError: weights, what has been collected, or scores are NaN or infinite.
        """
        busy = [layer.name not in idle for layer in layers]
        found = [x.not_finite() if of else x.not_finite_weights() for x, of in zip(layers, busy, strict=True)]
        check_finite([f"{x.name}: {' and '.join(bad)}" for x, bad in zip(layers, found, strict=True) if bad], step)
        scores = [self.prune(layer) if of else magnitude(layer) for layer, of in zip(layers, busy, strict=True)]
        importance = self._importance(layers, busy)
        ends = importance or [0.0] * len(layers)
        unusable = [not (is_finite(s) and math.isfinite(r)) for s, r in zip(scores, ends, strict=True)]
        check_finite([f"{x.name}: scores" for x, bad in zip(layers, unusable, strict=True) if bad], step)
        active, numel = [layer.active for layer in layers], [layer.numel for layer in layers]
        names = [layer.name for layer in layers]
        request = PruneRequest(names, step, rate, active, numel, scores, importance)
        if self.growth_scope == "global":
            chosen = self._choose_globally(layers, request, busy)
        else:
            pruned, grown = self._counts(layers, request, flops_left, busy)
            chosen = [self._choose(step, *parts) for parts in zip(layers, scores, pruned, grown, strict=True)]
        return [LayerUpdate(layer, *sets, r) for layer, sets, r in zip(layers, chosen, ends, strict=True)]

    @property
    def falls(self) -> bool:
        """Returns whether layers shall have other numbers of weights than they have, trained or not."""
        return self.target is not keep_counts

    def _importance(self, layers: Sequence[LayerView], busy: Sequence[bool]) -> list[float] | None:
        if self.importance is None:
            return None
        raw = [self.importance(layer) if of else 0.0 for layer, of in zip(layers, busy, strict=True)]
        total = math.fsum(raw)
        return [0.0] * len(raw) if total == 0 else [r / total for r in raw]

    def _counts(
        self,
        layers: Sequence[LayerView],
        request: PruneRequest,
        flops_left: Callable[[], float | None],
        busy: Sequence[bool],
    ) -> tuple[Sequence[int], Sequence[int]]:
        """Returns how many weights each layer prunes and grows."""
        target, pruned = self._targets(request, busy)
        kept = [m - k for m, k in zip(request.active, pruned, strict=True)]
        if self.grow is None:
            return pruned, [0] * len(pruned)
        if request.importance is not None and not any(request.importance):
            warnings.warn(
                f"all importances are 0 at step {request.step}: every layer regrows what it pruned", stacklevel=2
            )
            grown = [c - m for c, m in zip(target, kept, strict=True)]
            return pruned, [g if of else 0 for g, of in zip(grown, busy, strict=True)]
        free = self._free(layers, kept)
        costs = [layer.flops_per_weight for layer in layers]
        asked = RedistributionRequest(
            importance=list(compress(request.importance or [], busy)),
            pruned=list(compress(pruned, busy)),
            free=list(compress(free, busy)),
            kept=list(compress(kept, busy)),
            target=list(compress(target, busy)),
            flops_per_weight=list(compress(costs, busy)),
            flops_budget=flops_left(),
        )
        regrown = iter(self.redistribution_rule(asked))
        return pruned, [next(regrown) if of else 0 for of in busy]

    def _free(self, layers: Sequence[LayerView], kept: Sequence[int]) -> list[int]:
        """Returns how many weights each layer can grow."""
        limits = [max(math.floor(self.max_density * layer.numel), layer.active) for layer in layers]
        return [limit - m for limit, m in zip(limits, kept, strict=True)]

    def _choose_globally(
        self, layers: Sequence[LayerView], request: PruneRequest, busy: Sequence[bool]
    ) -> list[tuple[Tensor, Tensor]]:
        """Positions pruned and grown, where growth takes the largest scores of all layers; ties to the earlier one."""
        target, pruned = self._targets(request, busy)
        gone = [topology.smallest(scores, k) for scores, k in zip(request.scores, pruned, strict=True)]
        kept = [m - k for m, k in zip(request.active, pruned, strict=True)]
        total = sum(c - m for c, m, of in zip(target, kept, busy, strict=True) if of)
        rooms = [min(room, total) if of else 0 for room, of in zip(self._free(layers, kept), busy, strict=True)]
        best = [self._best(request.step, *parts) for parts in zip(layers, gone, rooms, strict=True)]
        if sum(positions.numel() for positions, _ in best) < total:  # samples that are too small are drawn anew
            best = [self._best(request.step, *parts, False) for parts in zip(layers, gone, rooms, strict=True)]
        chosen = topology.largest(torch.cat([scores for _, scores in best]), total)
        ends = torch.tensor([positions.numel() for positions, _ in best]).cumsum(0).tolist()
        result = []
        for layer, removed, (positions, _), end in zip(layers, gone, best, ends, strict=True):
            own = chosen[(chosen >= end - positions.numel()) & (chosen < end)] - (end - positions.numel())
            result.append((layer.indices[removed], positions[own.to(positions.device)]))
        return result

    def _best(
        self, step: int, layer: LayerView, gone: Tensor, number: int, within_sample: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The positions of largest grow scores, ascending, and these scores, float64 on the CPU.

        Args:
            number: how many; fewer where a sample has fewer.
            within_sample: False: as many as are asked for, in any case.
        """
        if number == 0:
            return layer.indices[:0], torch.zeros(0, dtype=torch.float64)
        assert self.grow is not None
        wishes = self.grow(layer)
        if within_sample and isinstance(wishes, SampledScores):
            number = min(number, wishes.number)
        positions = self._largest(step, layer, wishes, gone, number)
        if isinstance(wishes, Tensor):
            return positions, wishes.reshape(-1)[positions].double().cpu()
        if not isinstance(wishes, ComparableScores):
            raise ValueError(
                f"growth_scope='global': {layer.name} grows by an order of its own positions, which cannot be compared "
                "with other layers; use growth_scope='local'"
            )
        return positions, wishes.at(positions).double().cpu()

    def _targets(self, request: PruneRequest, busy: Sequence[bool]) -> tuple[Sequence[int], Sequence[int]]:
        """Returns how many weights layers have after an update that redistributes nothing, and how many they prune."""
        target = self.target(request)
        if self.grow is None:
            target = [min(c, m) for c, m in zip(target, request.active, strict=True)]
        pruned = self.amount(replace(request, target=target))
        if all(busy):
            return target, pruned
        calm_target, calm = self._targets(replace(request, rate=0.0), [True] * len(busy))
        both = zip(target, pruned, calm_target, calm, busy, strict=True)
        chosen = [(c, k) if of else (calm_c, calm_k) for c, k, calm_c, calm_k, of in both]
        return [c for c, _ in chosen], [k for _, k in chosen]

    def _choose(self, step: int, layer: LayerView, scores: Tensor, prune: int, grow: int) -> tuple[Tensor, Tensor]:
        """Positions that are pruned and positions that are grown; what has just been pruned may be grown again."""
        gone = topology.smallest(scores, prune)
        pruned = layer.indices[gone]
        if self.grow is None or grow == 0:
            return pruned, pruned[:0]
        return pruned, self._largest(step, layer, self.grow(layer), gone, grow)

    def _largest(self, step: int, layer: LayerView, wishes: Tensor | LazyScores, gone: Tensor, number: int) -> Tensor:
        """The positions of largest grow scores outside the active set without what is `gone` of it, ascending."""
        if not isinstance(wishes, Tensor):
            if self.per_neuron:
                raise ValueError(
                    f"per_neuron=True: {layer.name} has too many positions for scores of neurons; use per_neuron=False"
                )
            stays = torch.ones_like(layer.indices, dtype=torch.bool).index_fill_(0, gone, False)
            return wishes.largest(number, taken=layer.indices[stays])
        check_finite([f"{layer.name}: scores to grow by"] if wishes.isnan().any() else [], step)
        candidates = torch.ones(layer.numel, dtype=torch.bool, device=wishes.device)
        candidates[layer.indices] = False
        candidates[layer.indices[gone]] = True
        wishes = torch.where(candidates, wishes, -math.inf)
        if self.per_neuron:
            return topology.largest_by_row(wishes.view(layer.shape[0], -1), number)
        return topology.largest(wishes, number)


def check_finite(bad: Sequence[str], step: int) -> None:
    """Raises where anything is bad."""
    if bad:
        raise FloatingPointError(
            f"{'; '.join(bad)} not finite at the topology update of step {step}; the topology was left unchanged. "
            "Lower the learning rate, clip gradients, or go back to an earlier checkpoint"
        )
