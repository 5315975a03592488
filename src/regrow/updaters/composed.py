"""ComposedUpdater: when and how the active sets of a model change. Methods are a few lines that choose its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from regrow._renamed import renamed_arguments
from regrow.criteria import GrowScore, Importance, PruneScore, magnitude
from regrow.distributed import assert_ranks_agree, is_distributed, largest, same_generator
from regrow.momentum.collector import MomentumCollector, keeps_factors, window_of
from regrow.momentum.rules import LastGradient, Rule, optimizer_rule
from regrow.optimizers.hooks import grad_scale_of, groups_of, was_skipped
from regrow.redistribution import (
    Amount,
    RedistributionRule,
    Target,
    by_importance,
    by_rate,
    check_scope,
    keep_counts,
    keep_own,
)
from regrow.schedules import Schedule, step_at
from regrow.topology.random import seeded_generator
from regrow.weights import SparseWeight, is_sharded

from .base import MovingUpdater, Updater, check_steps, row_of
from .costs import Costs
from .layer_view import ActiveGradients, LayerView
from .plan import LayerUpdate, UpdatePlan

__all__ = ["Collect", "ComposedUpdater"]

Collect = Literal["momentum", "gradient", "sampled-gradient"]


class ComposedUpdater(MovingUpdater):
    """Prunes, redistributes and regrows weights every so many optimizer steps.

    One update: each layer prunes its lowest-scored active weights (`schedule` and `prune`), the redistribution rule
    says how many each layer gets back, and each layer grows its highest-scored inactive positions (`grow`); what has
    just been pruned may come back. Grown weights start at 0. The number of active weights of the network never
    changes, unless `target` says so.

    Args:
        model: a model from `sparsify`.
        optimizer: trains all sparse weights of the model; it may be wrapped, as by SAM or Lookahead. LBFGS, whose state
            runs through all weights, restarts at each update that moves some.
        total_steps: optimizer steps T of the whole training; after it nothing changes.
        update_every: optimizer steps between updates (none at T itself); None: by hand, with `update()`.
        schedule: step -> prune rate, the fraction of a layer's active weights to replace; see `schedules`.
        prune: layer -> scores of active weights, shape (active,); the smallest are pruned. See `criteria`.
        grow: layer -> scores of all positions, shape (numel,), or `lazy.LazyScores`; the largest inactive ones are
            grown. None: nothing grows.
        redistribution: layer -> its importance, a number >= 0; freed weights go to layers in proportion to it. None:
            each layer grows as many weights as it prunes.
        redistribution_rule: turns importance into counts, see `regrow.redistribution`; default: in proportion.
        amount: how many weights each layer prunes, see `redistribution`.
        target: how many weights each layer has after the update, see `redistribution`; default: as many as before.
        collect: what to collect for criteria before an update: "momentum" (of inactive weights, by the optimizer's own
            rule), "gradient" (of all positions, in the last step), "sampled-gradient" (what gradients of few positions
            can be had from, in the last step), or None.
        inherit: grown weights start with the collected momentum. If False, or without collected momentum, the momentum
            of a grown weight starts at 0, and its second moment at the mean of the layer's active weights.
        uses_gradient: criteria read `layer.gradient`, the last step's of active weights. Needs no dense gradient.
        uses_momentum: criteria read `layer.momentum`, so an optimizer without momentum is refused at once.
        per_neuron: distribute a layer's growth among its neurons (rows) by their sums of grow scores.
        growth_scope: "local": each layer grows as many as redistribution gives it; "global": the positions of largest
            grow score in the whole network, so that no redistribution is needed.
        stop_fraction: updates end at this fraction of total_steps, in (0, 1].
        max_density: no layer grows above this density, or the one it starts with if that is more; in (0, 1].
        flops_budget: FLOP density of the sparse weights that redistribution rules that heed it stay within, in (0, 1].
        needs_flops: whether the redistribution rule asks for FLOPs; they are measured on the first training batch.
        window: steps before an update in which the momentum of inactive weights is collected; "all": in all steps,
            as published; None: "all" for masked weights, `weights.compressed.DEFAULT_WINDOW` for compressed ones.
        window_batch: number of examples of a batch (for Linear, vectors: N * T of an (N, T, F) input) used for the
            gradients of inactive weights in compressed storage; None: all.
        factored: keep what is collected of compressed Linear layers under SGD as the factors of their gradients,
            without a tensor of dense size; grow criteria then return `lazy.LazyScores`. None: above 2^26 positions.
        winograd: compute the gradients of inactive weights of compressed 3x3 convolutions with stride 1 and many
            channels by Winograd's algorithm (`regrow.ops.winograd`), which differs by rounding and costs less.
        seed: seed of the generator that criteria may use; None draws one from torch's global generator.

    Attributes:
        step: optimizer steps seen.
        history: list of dicts, one per update and layer, with step, prune_rate, name, pruned, grown, active (after the
            update) and importance.

    Raises:
        ValueError: the model is not sparse, the optimizer lacks a sparse weight or the momentum that the method needs,
            or a value is out of range; the message names the remedy, and nothing is changed.

    Example:
        >>> from regrow import criteria, schedules
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.ComposedUpdater(  # SET with plain magnitude
        ...     model, optimizer, total_steps=1_000, update_every=100, prune=criteria.magnitude,
        ...     grow=criteria.random, schedule=schedules.cosine_decay(0.3, end=1_000),
        ... )
    """

    switches_storage = True

    @renamed_arguments(share="redistribution", share_rule="redistribution_rule")
    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        schedule: Schedule,
        prune: PruneScore = magnitude,
        grow: GrowScore | None,
        redistribution: Importance | None = None,
        redistribution_rule: RedistributionRule | None = None,
        amount: Amount = by_rate,
        target: Target = keep_counts,
        collect: Collect | None = None,
        inherit: bool = True,
        uses_gradient: bool = False,
        uses_momentum: bool = False,
        per_neuron: bool = False,
        growth_scope: str = "local",
        stop_fraction: float = 1.0,
        max_density: float = 1.0,
        flops_budget: float | None = None,
        needs_flops: bool = False,
        window: int | Literal["all"] | None = None,
        window_batch: int | None = None,
        factored: bool | None = None,
        winograd: bool = False,
        seed: int | None = None,
    ):
        check_steps(total_steps, update_every)
        _check_window(window, window_batch)
        _check_share("max_density", max_density)
        _check_share("stop_fraction", stop_fraction)
        if collect not in (None, *get_args(Collect)):
            known = ", ".join(map(repr, get_args(Collect)))
            raise ValueError(f"collect={collect!r} is unknown; use one of {known}, or None")
        if check_scope(growth_scope) == "global" and (
            grow is None or redistribution_rule or per_neuron or flops_budget
        ):
            raise ValueError(
                "growth_scope='global' takes the largest grow scores of the whole network; leave out "
                "redistribution_rule, per_neuron and flops_budget, and give grow"
            )
        super().__init__(model, optimizer)
        self.total_steps = total_steps
        self.update_every = update_every
        self._end = step_at(stop_fraction, total_steps)
        self._schedule, self._flops_budget = schedule, flops_budget
        redistribution_rule = redistribution_rule or (keep_own if redistribution is None else by_importance)
        self._plan = UpdatePlan(
            prune, grow, redistribution, redistribution_rule, amount, target, per_neuron, max_density, growth_scope
        )
        rules = self._rules(collect, uses_momentum)
        self._window = window if collect == "momentum" else 1
        self._factored, self._sampled = factored, collect == "sampled-gradient"
        self._inherits = inherit and collect == "momentum"
        self._generator = same_generator(seeded_generator(seed), self._device)
        self._expected: int | None = None
        self._common_factor, self._unscale = 1.0, 1.0
        self._costs = Costs(model, needs_flops)
        self._gradients = ActiveGradients(self._weights) if uses_gradient else None
        self._needs_gradient = grow is not None or collect is not None or uses_gradient or uses_momentum
        self._collectors = {}
        for name, weight in self._weights.items():
            rule, steps = rules[name], window_of(weight, self._window)
            factors = self._keeps_factors(weight, rule, steps)
            self._collectors[name] = MomentumCollector(
                weight, rule, steps, window_batch, factors, update_every, self._sampled, winograd
            )
        self._set_collecting()
        self._hang()

    def _rules(self, collect: Collect | None, uses_momentum: bool) -> dict[str, Rule | None]:
        """Returns what is collected of each layer; refuses optimizers that cannot give it."""
        reads_gradient = collect in ("gradient", "sampled-gradient")
        rules: dict[str, Rule | None] = dict.fromkeys(self._weights, LastGradient if reads_gradient else None)
        sharded = [name for name, weight in self._weights.items() if is_sharded(weight.parameter)]
        if collect == "sampled-gradient" and sharded:
            raise ValueError(f"collect={collect!r}: {', '.join(sharded)} are sharded; do not shard them, or use RigL")
        if collect == "momentum" or uses_momentum:
            own = {n: optimizer_rule(self.optimizer, self._group(n), weight) for n, weight in self._weights.items()}
            rules = {**own} if collect == "momentum" else rules
        return rules

    def _keeps_factors(self, weight: SparseWeight, rule: Rule | None, window: int | None) -> bool:
        """Returns whether a layer's gradients are kept as factors; those of samples are few, and are not."""
        return not self._sampled and keeps_factors(weight, rule, window, self._factored)

    def expect_update(self, after: int) -> None:
        """Announces that the next update by hand comes after so many more steps, so that the window opens in time.

        Without it, where `update_every` is None, all steps since the last update are collected; where it is a number,
        only its own windows are open.

        Args:
            after: optimizer steps until then, at least 1.
        """
        self._expected = self.step + after
        self._set_collecting()

    def update(self) -> list[dict[str, Any]]:
        """Updates the topology now; called by itself where `update_every` is given. In several processes all call it.

        Returns:
            The rows added to `history`, one a layer. Empty, and nothing changes, once updates have ended.

        Raises:
            FloatingPointError: a weight, a momentum or a score is NaN or infinite; nothing is changed.
            RuntimeError: before the first optimizer step; no layer had a gradient since the last update; nothing was
                collected of some layers, because the update was not expected; or processes that train together have
                come apart.
        """
        if self.step >= self._end:
            return []
        if self.step == 0:
            raise RuntimeError("update() was called before the first optimizer step; take a step first")
        if is_distributed():
            self._agree()
        rate = self._schedule(self.step)
        taking_part = self._taking_part()
        if not taking_part:
            return self._nobody_took_part()
        chosen = self._weights if self._plan.falls else taking_part
        layers = [self._view(self._weights[name], self._collectors[name]) for name in chosen]
        idle = {name for name in chosen if name not in taking_part}
        changes = self._plan.plan(layers, self.step, rate, lambda: self._flops_left(layers), idle)
        for change in changes:
            layer = change.layer
            state = layer.collector.grown_state(change.grown, layer.state, layer.group) if self._inherits else {}
            self._move(layer.weight, change.pruned, change.grown, state, restart=not self._inherits)
        rows = self._rows(rate, {change.layer.name: change for change in changes})
        self._note_update(rows)
        for collector in self._collectors.values():
            collector.after_update()
        if self._gradients:
            self._gradients.drop()
        if self._expected is not None and self._expected <= self.step:
            self._expected = None
        assert_ranks_agree(self._weights, self.step, self._generator)
        return rows

    def _taking_part(self) -> list[str]:
        """Layers that were trained since the last update, and of which what criteria need has been collected.

        Names in the order of the network; all of them where a method only prunes, by what the weights themselves say.
        """
        if not self._needs_gradient:
            return list(self._weights)
        trained = [name for name, collector in self._collectors.items() if collector.saw_gradient]
        known = trained if self._gradients is None else [name for name in trained if name in self._gradients.values]
        ready = [name for name in known if self._collectors[name].is_ready]
        if len(ready) < len(trained) and not self._is_due():
            raise RuntimeError(
                f"update() at step {self.step}, but nothing was collected of {', '.join(sorted({*trained} - {*ready}))}"
                f", because the next update was expected at step {self._next_update}; call expect_update(after) before "
                "the step, or the window, that precedes it"
            )
        return ready

    def _nobody_took_part(self) -> list[dict[str, Any]]:
        """Does nothing after an update, or if all sparse weights are frozen; otherwise raises an error in training."""
        again = bool(self.history) and self.history[-1]["step"] == self.step
        if again or not any(weight.parameter.requires_grad for weight in self._weights.values()):
            return []
        by_hand = any(collector.unknown for collector in self._collectors.values())
        why = (
            "gradients were set by hand (p.grad = ..., torch.autograd.grad), and those of a compressed weight do not "
            "cover inactive weights. Use storage='masked', or a method that grows at random, such as regrow.SET"
            if by_hand
            else "no sparse weight had a gradient since the last update, or in the steps before this one that criteria "
            "use. Before each optimizer.step(), call loss.backward() through the model that the updater was made with, "
            "or set .grad"
        )
        raise RuntimeError(f"the update of step {self.step} could change nothing: {why}")

    def _agree(self) -> None:
        """Combines what ranks have collected separately, before anything is chosen."""
        collected = list(self._collectors.values())
        numbers = [number for collector in collected for number in (collector.saw_gradient, collector.steps)]
        agreed = iter(largest(numbers, self._device))
        for collector in collected:
            collector.saw_gradient = bool(next(agreed))
            collector.average_moments(next(agreed))
        self._costs.agree(self._device)

    def remove(self) -> None:
        super().remove()
        for collector in self._collectors.values():
            collector.close()
        self._costs.close()

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs besides the state of model and optimizer: only tensors and plain values.

        In several processes it is the rank's own: between updates it holds what this rank has collected.
        """
        state = self._origin() | {
            "step": self.step,
            "expected": self._expected,
            "history": [dict(row) for row in self.history],
            "generator": self._generator.get_state(),
            "flops": dict(self._costs.per_weight),
            "missing": {name: collector.state_dict() for name, collector in self._collectors.items()},
        }
        if self._gradients:
            state["gradients"] = self._gradients.state_dict()
        if self._switches:
            state["storage"] = self._switches.state(self._weights)
        return state | self._own_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state_dict()`; load the model and the optimizer first.

        Args:
            state: result of `state_dict`.

        Raises:
            ValueError: the state is that of another model, method or kind of optimizer; nothing is changed.
        """
        self._check_state(state)
        self._take_storage(state.get("storage", {}))
        self._generator.set_state(state["generator"].cpu())
        self.step = state["step"]
        of_first_format = None if self.update_every else state.get("next_update")
        self._expected = state.get("expected", of_first_format)
        self.history = [dict(row) for row in state["history"]]
        self._costs.per_weight = dict(state["flops"])
        for name, collector in self._collectors.items():
            collector.load_state_dict(state["missing"][name])
        if self._gradients:
            self._gradients.load_state_dict(state["gradients"])
        self._load_own_state(state)
        self._set_collecting()

    def _take_storage(self, storages: Mapping[str, str]) -> None:
        """Gives weights the storage that they had when a state was saved."""
        differing = {name: kind for name, kind in storages.items() if kind != self._weights[name].storage}
        rules = self._switches.rules if self._switches else {}
        if fixed := sorted(differing.keys() - rules.keys()):
            raise ValueError(
                f"{', '.join(fixed)} had another storage where this updater state was saved; make the model with the "
                "compress_below that sparsify was given there"
            )
        if self._switches:
            self._change_storage(self._switches, differing)
        if fixed := sorted(name for name, kind in differing.items() if kind != self._weights[name].storage):
            raise ValueError(
                f"{', '.join(fixed)} had another storage where this updater state was saved, which something on the "
                "layer forbids here (see regrow.summary); put it there after load_state_dict, or leave it out"
            )

    def _before_switch(self, name: str) -> None:
        self._collectors[name].close()

    def _after_switch(self, name: str) -> None:
        weight, collector = self._weights[name], self._collectors[name]
        window = window_of(weight, self._window)
        collector.follow(weight, window, self._keeps_factors(weight, collector.rule, window))

    def _own_state(self) -> dict[str, Any]:
        """Returns what a method adds to the state; methods that add something say how it is loaded."""
        return {}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        """Loads what `_own_state` gave."""

    def _check_state(self, state: Mapping[str, Any]) -> None:
        own = self._own_state().keys() | ({"gradients"} if self._gradients else set())
        self._check_origin(state, {"step", "history", "generator", "flops", "missing", *own})
        for name, collected in state["missing"].items():
            if absent := {"steps", "saw_gradient", "moments"} - collected.keys():
                raise ValueError(f"this updater state is damaged: {name} lacks {sorted(absent)}")
            theirs, ours = set(collected["moments"]), self._collectors[name].names
            if theirs and theirs != set(ours):
                raise ValueError(
                    f"this updater state has {sorted(theirs)} of {name}, and here {sorted(ours) or 'nothing'} is "
                    "collected: it belongs to another kind of optimizer or updater"
                )

    def _after_backward(self) -> None:
        for collector in self._collectors.values():
            collector.backward_ended()

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if was_skipped(optimizer):
            for collector in self._collectors.values():
                collector.drop()
            return
        groups = groups_of(optimizer, self._weights)
        for name, weight in self._weights.items():
            self._collectors[name].fold(groups[name], self._common_factor, self._unscale)
            weight.enforce()
        self.step += 1
        self._alignment.note()
        self._costs.after_step(type(self).__name__, self._weights)
        if self.update_every and self.step % self.update_every == 0:
            self.update()
        self._set_collecting()

    def _before_step(self) -> None:
        """Sees what was done to the gradients since backward; a layer that cannot tell takes another's word for it."""
        super()._before_step()
        if is_distributed():
            for collector in self._collectors.values():
                if collector.rule is not None and not collector.rule.linear:
                    collector.average_staged()
        factors = [factor for collector in self._collectors.values() if (factor := collector.measure()) is not None]
        self._common_factor = factors[0] if factors else 1.0
        self._unscale = 1 / grad_scale_of(self.optimizer)
        if self._gradients and self._is_near(1):
            self._gradients.note(self._unscale)

    @property
    def _next_update(self) -> int | None:
        """The step of the next update: one that comes by itself, or an earlier one that is expected by hand."""
        known = [] if self._expected is None else [self._expected]
        if self.update_every is not None:
            known.append((self.step // self.update_every + 1) * self.update_every)
        return min(known, default=None)

    def _is_due(self) -> bool:
        """Returns whether this step is one for which an update was expected."""
        if self._expected is not None and self._expected <= self.step:
            return True
        return self._expected is None if self.update_every is None else self.step % self.update_every == 0

    def _is_near(self, steps: int) -> bool:
        """Returns whether an update may come within so many steps; never once updates have ended."""
        next_update = self.step if self._next_update is None else self._next_update
        return not self._is_done() and next_update - steps <= self.step

    def _is_done(self) -> bool:
        return self.step >= self._end or (self._next_update or 0) >= self._end

    def _set_collecting(self) -> None:
        """Opens the windows `window` steps before the next update."""
        done = self._is_done()
        for collector in self._collectors.values():
            collector.collect(not done and (collector.window is None or self._is_near(collector.window)))
            if done:
                collector.release()

    def _view(self, weight: SparseWeight, collector: MomentumCollector) -> LayerView:
        gradient = self._gradients.values.get(weight.name) if self._gradients else None
        flops = self._costs.of(weight.name)
        return LayerView(weight, collector, self.optimizer, flops, self._generator, self.step, gradient)

    def _flops_left(self, layers: Sequence[LayerView]) -> float | None:
        if self._flops_budget is None:
            return None
        return self._costs.left(self._flops_budget, self._weights, [layer.name for layer in layers])

    def _rows(self, rate: float, changes: Mapping[str, LayerUpdate]) -> list[dict[str, Any]]:
        rows = []
        for name, weight in self._weights.items():
            pruned, grown, importance = 0, 0, 0.0
            if change := changes.get(name):
                pruned, grown, importance = change.pruned.numel(), change.grown.numel(), change.importance
            rows.append(row_of(self.step, rate, name, pruned, grown, weight.active, importance))
        return rows


Updater._composed = ComposedUpdater


def _check_window(window: Any, window_batch: int | None) -> None:
    if window not in (None, "all") and (not isinstance(window, int) or window < 1):
        raise ValueError(f"window={window!r} must be a number of steps, at least 1, or 'all', or None")
    if window_batch is not None and window_batch < 1:
        raise ValueError(f"window_batch={window_batch} must be at least 1 example, or None for the whole batch")


def _check_share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name}={value} must be in (0, 1]")
