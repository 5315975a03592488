"""Updaters: when and how the active sets of a model change. They hang on the optimizer's step hook."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from . import criteria, topology
from .flops import FlopsMeter
from .moments import momentum_of_state, optimizer_rule
from .momentum import MissingMomentum, window_of
from .optimizers import before_step, group_of, groups_of, innermost, refuse_second, trained_weights, was_skipped
from .random import seeded_generator
from .schedule import Schedule, prune_rate_schedule
from .weights import SparseWeight

__all__ = ["SparseMomentum", "Static", "Updater"]


class LayerView:
    """One layer at an update, as criteria see it (see `criteria.Layer`): a snapshot taken before anything is pruned."""

    def __init__(
        self,
        weight: SparseWeight,
        missing: MissingMomentum,
        optimizer: torch.optim.Optimizer,
        flops_per_weight: float,
        generator: torch.Generator,
    ):
        self.weight = weight
        self.missing = missing
        self.group = group_of(optimizer, weight)
        self.state = optimizer.state.get(weight.parameter, {})
        missing.sync(self.state, self.group)
        self.name = weight.name
        self.numel = weight.numel
        self.indices = weight.indices
        self.values = weight.values
        self.momentum = momentum_of_state(weight, self.state, self.group, missing.rule)
        self.flops_per_weight = flops_per_weight
        self.generator = generator

    @property
    def active(self) -> int:
        return self.indices.numel()

    @property
    def missing_momentum(self) -> Tensor:
        """Made when asked for, so that this exists for one layer at a time."""
        return self.missing.scores(self.group)

    def not_finite(self) -> list[str]:
        """What of the layer is NaN or infinite."""
        parts = {
            "weights": self.values,
            "momentum": self.momentum,
            "momentum of missing weights": self.missing_momentum,
        }
        return [what for what, tensor in parts.items() if not _is_finite(tensor)]


def _is_finite(tensor: Tensor) -> bool:
    """Whether all are finite; isfinite itself would make two more tensors of this size."""
    return tensor.numel() == 0 or all(math.isfinite(float(end)) for end in torch.aminmax(tensor))


class Updater:
    """Prunes, shares out and regrows weights every so many optimizer steps.

    One update: each layer gives away its lowest-scored active weights (schedule and `prune`), the share rule says how
    many each layer gets back, and each layer grows its highest-scored missing positions (`grow`). The number of active
    weights of the network never changes.

    Args:
        model: a model from `sparsify`.
        optimizer: trains all sparse weights of the model, and has momentum.
        total_steps: optimizer steps T of the whole training; after it nothing changes.
        update_every: update after each so many optimizer steps (not at T itself); None: by hand, with `update()`.
        schedule: step -> prune rate.
        prune: layer -> scores of active weights, shape (active,); the smallest go.
        grow: layer -> scores of all positions, shape (numel,); the largest missing ones come.
        importance: layer -> number >= 0; shares of the layers before normalisation.
        share: share rule, see `criteria`.
        max_density: no layer grows above this density, or the one it starts with if that is more; in (0, 1].
        flops_budget: FLOP density of the sparse weights that share rules which heed it stay within, in (0, 1].
        needs_flops: whether the share rule asks for FLOPs; they are measured on the first training batch.
        window: steps before an update in which the momentum of missing weights is collected; "all": in all steps,
            as published; None: "all" for masked weights, `momentum.DEFAULT_WINDOW` for compressed ones.
        window_batch: examples of a batch (for Linear vectors: N * T of an (N, T, F) input) from which compressed
            weights have the gradients of missing ones; None: all.
        seed: of the generator that criteria may use; None draws one from torch's global generator.

    Attributes:
        step: optimizer steps seen. history: list of dicts, one per update and layer, with step, prune_rate, name,
            pruned, grown, active (after the update) and importance.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        schedule: Schedule,
        prune: Callable[[criteria.Layer], Tensor],
        grow: Callable[[criteria.Layer], Tensor],
        importance: Callable[[criteria.Layer], float],
        share: criteria.ShareRule,
        max_density: float = 1.0,
        flops_budget: float | None = None,
        needs_flops: bool = False,
        window: int | Literal["all"] | None = None,
        window_batch: int | None = None,
        seed: int | None = None,
    ):
        _check_steps(total_steps, update_every)
        _check_window(window, window_batch)
        if not 0 < max_density <= 1:
            raise ValueError(f"max_density={max_density} must be in (0, 1]")
        optimizer = innermost(optimizer)
        refuse_second(optimizer, Updater)
        _refuse_several_processes()
        self.optimizer = optimizer
        self.total_steps = total_steps
        self.update_every = update_every
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self._schedule, self._prune, self._grow = schedule, prune, grow
        self._importance, self._share = importance, share
        self._max_density, self._flops_budget = max_density, flops_budget
        self._weights = trained_weights(model, optimizer)
        rules = {
            name: optimizer_rule(optimizer, group_of(optimizer, weight), weight)
            for name, weight in self._weights.items()
        }
        self._generator = seeded_generator(seed)
        self._next_update = update_every
        self._common_factor, self._unscale = 1.0, 1.0
        self._flops: dict[str, float] = {}
        self._meter = FlopsMeter(model) if needs_flops else None
        self._missing = {
            name: MissingMomentum(weight, rules[name], window_of(weight, window), window_batch)
            for name, weight in self._weights.items()
        }
        self._set_collecting()
        self._hooks = [
            before_step(optimizer, self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def expect_update(self, after: int) -> None:
        """Says that the next update by hand will come after so many more steps, so that the window opens in time.

        Without it, by-hand updates with a window collect in all steps since the last update.
        """
        self._next_update = self.step + after
        self._set_collecting()

    def update(self) -> list[dict[str, Any]]:
        """Updates the topology now; called by itself where `update_every` is given.

        Returns:
            The rows added to `history`, one a layer. Empty, and nothing changes, once `total_steps` are done.

        Raises:
            FloatingPointError: a weight or a momentum is NaN or infinite; nothing is changed.
            RuntimeError: before the first optimizer step.
        """
        if self.step >= self.total_steps:
            return []
        if self.step == 0:
            raise RuntimeError("update() before the first optimizer step: there is no momentum yet")
        rate = self._schedule(self.step)
        layers = [
            self._view(weight, self._missing[name])
            for name, weight in self._weights.items()
            if self._missing[name].saw_gradient
        ]
        self._check_finite(layers)
        importance = self._normalised_importance(layers)
        pruned, grown = self._counts(layers, rate, importance)
        moves = [self._choose(layer, *counts) for layer, *counts in zip(layers, pruned, grown, strict=True)]
        for layer, (leaving, entering) in zip(layers, moves, strict=True):
            entering_state = layer.missing.grown_state(entering, layer.state, layer.group)
            layer.weight.move(leaving, entering, layer.state, entering_state)
        rows = self._rows(
            rate, {layer.name: (k, q, r) for layer, k, q, r in zip(layers, pruned, grown, importance, strict=True)}
        )
        self.history += rows
        for missing in self._missing.values():
            missing.after_update()
        return rows

    def remove(self) -> None:
        """Takes the updater off the optimizer and the model, which keeps its topology."""
        for hook in self._hooks:
            hook.remove()
        for weight in self._weights.values():
            weight.listen(None)
        if self._meter is not None:
            self._meter.close()

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs beside the model's and the optimizer's state; tensors and plain values only."""
        return {
            "step": self.step,
            "next_update": self._next_update,
            "history": [dict(row) for row in self.history],
            "generator": self._generator.get_state(),
            "flops": dict(self._flops),
            "shapes": {name: list(weight.shape) for name, weight in self._weights.items()},
            "missing": {name: missing.state_dict() for name, missing in self._missing.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state_dict()`; load the model and the optimizer first.

        Raises:
            ValueError: the state is that of another model; nothing is changed.
        """
        self._check_state(state)
        self._generator.set_state(state["generator"])
        self.step = state["step"]
        self._next_update = state["next_update"]
        self.history = [dict(row) for row in state["history"]]
        self._flops = dict(state["flops"])
        for name, missing in self._missing.items():
            missing.load_state_dict(state["missing"][name])
        self._set_collecting()

    def _check_state(self, state: Mapping[str, Any]) -> None:
        expected = {"step", "next_update", "history", "generator", "flops", "missing", "shapes"}
        if absent := expected - state.keys():
            raise ValueError(f"this is not the state of an updater, or it is damaged: {sorted(absent)} are missing")
        for name, missing in state["missing"].items():
            if absent := {"steps", "saw_gradient", "moments"} - missing.keys():
                raise ValueError(f"this updater state is damaged: {name} lacks {sorted(absent)}")
        theirs = {name: tuple(shape) for name, shape in state["shapes"].items()}
        ours = {name: tuple(weight.shape) for name, weight in self._weights.items()}
        if theirs != ours:
            differing = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
            details = ", ".join(f"{name} ({theirs.get(name)} there, {ours.get(name)} here)" for name in differing)
            raise ValueError(f"this updater state belongs to another model: {details}")

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if was_skipped(optimizer):
            for missing in self._missing.values():
                missing.drop()
            return
        groups = groups_of(optimizer, self._weights)
        for name, weight in self._weights.items():
            self._missing[name].fold(groups[name], self._common_factor, self._unscale)
            weight.enforce()
        self.step += 1
        self._close_meter()
        if self.update_every and self.step % self.update_every == 0:
            self._next_update = self.step + self.update_every
            self.update()
        self._set_collecting()

    def _before_step(self) -> None:
        """Sees what was done to the gradients since backward; a layer that cannot tell takes another's word for it."""
        scale = getattr(self.optimizer, "grad_scale", None)  # a fused optimizer unscales on its own
        factors = [factor for missing in self._missing.values() if (factor := missing.measure()) is not None]
        self._common_factor = factors[0] if factors else 1.0
        self._unscale = 1.0 if scale is None else 1 / float(scale)

    def _set_collecting(self) -> None:
        """Opens the windows `window` steps before the next update."""
        next_update = self.step if self._next_update is None else self._next_update
        done = self.step >= self.total_steps or (self._next_update or 0) >= self.total_steps
        for missing in self._missing.values():
            missing.collect(not done and (missing.window is None or next_update - missing.window <= self.step))
            if done:
                missing.release()

    def _close_meter(self) -> None:
        """Ends the measuring of FLOPs after the first step; those of a loaded state stay."""
        if self._meter is None:
            return
        counted, flops = self._meter.has_counted, self._meter.close()
        self._meter = None
        self._flops = self._flops or flops
        if not counted and not any(self._flops.values()):
            raise RuntimeError(
                f"{type(self).__name__} shares by FLOPs, but saw no forward pass of {', '.join(self._weights)}; make "
                "the updater before the first batch, and before a compiled model has run, or share by momentum alone"
            )

    def _view(self, weight: SparseWeight, missing: MissingMomentum) -> LayerView:
        flops = self._flops.get(weight.name, math.nan)
        return LayerView(weight, missing, self.optimizer, flops, self._generator)

    def _check_finite(self, layers: Sequence[LayerView]) -> None:
        """Raises before anything is changed."""
        bad = [f"{layer.name}: {' and '.join(what)}" for layer in layers if (what := layer.not_finite())]
        if bad:
            raise FloatingPointError(
                f"{'; '.join(bad)} not finite at the topology update of step {self.step}; the topology was left as it "
                "is. Lower the learning rate, clip gradients, or go back to an earlier checkpoint"
            )

    def _normalised_importance(self, layers: Sequence[LayerView]) -> list[float]:
        raw = [self._importance(layer) for layer in layers]
        total = math.fsum(raw)
        return [r / total for r in raw] if total > 0 else [0.0] * len(raw)

    def _counts(self, layers: Sequence[LayerView], rate: float, importance: list[float]) -> tuple[list[int], list[int]]:
        """How many weights each layer prunes and grows; both sum to the same number."""
        active = [layer.active for layer in layers]
        pruned = topology.prune_counts(rate, active, [layer.numel for layer in layers], importance)
        if not any(importance):
            if layers:
                warnings.warn(
                    f"all importances are 0 at step {self.step}: every layer gets its own weights back",
                    stacklevel=2,
                )
            return pruned, pruned
        limits = [max(math.floor(self._max_density * layer.numel), layer.active) for layer in layers]
        request = criteria.ShareRequest(
            importance=importance,
            pruned=pruned,
            free=[limit - m + k for limit, m, k in zip(limits, active, pruned, strict=True)],
            kept=[m - k for m, k in zip(active, pruned, strict=True)],
            flops_per_weight=[layer.flops_per_weight for layer in layers],
            flops_budget=self._flops_left(layers),
        )
        return pruned, list(self._share(request))

    def _flops_left(self, layers: Sequence[LayerView]) -> float | None:
        """The FLOPs of `flops_budget`, less those of layers that this update leaves alone."""
        if self._flops_budget is None:
            return None
        budget = self._flops_budget * sum(self._flops[name] * weight.numel for name, weight in self._weights.items())
        updated = {layer.name for layer in layers}
        others = (weight for name, weight in self._weights.items() if name not in updated)
        return budget - sum(self._flops[weight.name] * weight.active for weight in others)

    def _choose(self, layer: LayerView, pruned: int, grown: int) -> tuple[Tensor, Tensor]:
        """Positions that leave and positions that enter; what has just been pruned may enter again."""
        leaving = layer.indices[topology.smallest(self._prune(layer), pruned)]
        scores = self._grow(layer)
        candidates = torch.ones(layer.numel, dtype=torch.bool, device=scores.device)
        candidates[layer.indices] = False
        candidates[leaving] = True
        return leaving, topology.largest(torch.where(candidates, scores, -math.inf), grown)

    def _rows(self, rate: float, done: Mapping[str, tuple[int, int, float]]) -> list[dict[str, Any]]:
        rows = []
        for name, weight in self._weights.items():
            pruned, grown, importance = done.get(name, (0, 0, 0.0))
            rows.append(
                {
                    "step": self.step,
                    "prune_rate": rate,
                    "name": name,
                    "pruned": pruned,
                    "grown": grown,
                    "active": weight.active,
                    "importance": importance,
                }
            )
        return rows


def _check_window(window: Any, window_batch: int | None) -> None:
    if window not in (None, "all") and (not isinstance(window, int) or window < 1):
        raise ValueError(f"window={window!r} must be a number of steps, at least 1, or 'all', or None")
    if window_batch is not None and window_batch < 1:
        raise ValueError(f"window_batch={window_batch} must be at least 1 example, or None for the whole batch")


def _refuse_several_processes() -> None:
    if (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    ):
        raise RuntimeError(
            f"{torch.distributed.get_world_size()} processes: topology updates over several ranks are not there yet, "
            "and ranks on their own would choose different topologies; train in one process, or with regrow.Static"
        )


def _check_steps(total_steps: int, update_every: int | None) -> None:
    if total_steps < 1:
        raise ValueError(f"total_steps={total_steps} must be at least 1")
    if update_every is not None and not 1 <= update_every <= total_steps:
        raise ValueError(
            f"update_every={update_every} must be between 1 and total_steps={total_steps}, or None for updates by hand"
        )


class SparseMomentum(Updater):
    """Sparse momentum (Dettmers & Zettlemoyer 2019, arXiv:1907.04840, section 3 and algorithm 1).

    At an update each layer prunes its active weights of smallest magnitude, the freed weights are shared among layers
    by the mean momentum magnitude of their active weights, and each layer grows the missing weights of largest
    momentum magnitude, which start at 0 with the momentum they have.

    Args:
        model: a model from `sparsify`.
        optimizer: any whose state has `momentum_buffer` (SGD) or `exp_avg` (Adam, AdamW, ...), momentum not 0.
        total_steps: optimizer steps T of the whole training; the prune rate is annealed over them.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`.
        prune_rate: p0, share of a layer's active weights pruned at the first update, in [0, 1).
        schedule: "cosine" (to 0.005), "linear" (to 0) or "constant".
        share: "momentum" (the paper), "none" (each layer keeps its number of weights) or "momentum-per-flop".
        max_density: no layer grows above this density, or the one it starts with if that is more; in (0, 1].
        flops_budget: share by momentum so that the FLOP density of the sparse weights stays within this, in (0, 1].
        window: steps before an update in which the momentum of missing weights is collected, at least 1; "all": in all
            steps, as published; None: "all" for masked weights, `momentum.DEFAULT_WINDOW` for compressed ones.
        window_batch: examples of a batch (for Linear vectors: N * T of an (N, T, F) input) from which compressed
            weights have the gradients of missing ones; None: all.
        seed: sparse momentum draws nothing at random; kept for interface's sake.

    Raises:
        ValueError: the model is not sparse, the optimizer lacks a sparse weight or momentum, or a value is out of
            range; the message names the remedy, and nothing is changed.

    Example:
        >>> model = regrow.sparsify(model, density=0.05)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> updater = regrow.SparseMomentum(model, optimizer, total_steps=54_000, update_every=540)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        prune_rate: float = 0.5,
        schedule: str = "cosine",
        share: str = "momentum",
        max_density: float | None = None,
        flops_budget: float | None = None,
        window: int | Literal["all"] | None = None,
        window_batch: int | None = None,
        seed: int | None = None,
    ):
        if share not in criteria.SHARE_RULES:
            raise ValueError(f"share={share!r} is unknown; use one of {', '.join(criteria.SHARE_RULES)}")
        if flops_budget is not None and share != "momentum":
            raise ValueError(f"flops_budget={flops_budget} goes with share='momentum', got share={share!r}")
        if flops_budget is not None and not 0 < flops_budget <= 1:
            raise ValueError(f"flops_budget={flops_budget} is a FLOP density and must be in (0, 1]")
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=prune_rate_schedule(schedule, prune_rate, total_steps),
            prune=criteria.magnitude,
            grow=criteria.missing_momentum,
            importance=criteria.mean_momentum,
            share=criteria.SHARE_RULES[share],
            max_density=1.0 if max_density is None else max_density,
            flops_budget=flops_budget,
            needs_flops=flops_budget is not None or share == "momentum-per-flop",
            window=window,
            window_batch=window_batch,
            seed=0 if seed is None else seed,
        )


class Static:
    """Keeps the topology as it is, and inactive weights exactly 0: the baseline of static sparse training.

    Works with any optimizer. Has the interface of `Updater`; `update()` does nothing.

    Example:
        >>> updater = regrow.Static(model, torch.optim.SGD(model.parameters(), lr=0.1))
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        self.optimizer = innermost(optimizer)
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self._weights = trained_weights(model, self.optimizer)
        self._hook = self.optimizer.register_step_post_hook(self._after_step)

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if not was_skipped(optimizer):
            for weight in self._weights.values():
                weight.enforce()
            self.step += 1

    def expect_update(self, after: int) -> None:
        """Changes nothing."""

    def update(self) -> list[dict[str, Any]]:
        """Changes nothing."""
        return []

    def remove(self) -> None:
        """Takes the updater off the optimizer."""
        self._hook.remove()

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
