"""The momentum of inactive weights, collected beside the optimizer.

An inactive weight has no optimizer state, so its moments are summed up here by the optimizer's own rule, over a window
of steps before a topology update (or over all steps). The gradient is what the optimizer sees: it is staged during
backward, scaled by whatever clipping or unscaling did to the gradient until the optimizer steps, and folded in when it
has stepped.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regrow.distributed import is_distributed, mean_
from regrow.topology.indices import LIMIT
from regrow.topology.lazy import LARGEST_TENSOR, LazyScores
from regrow.weights import SparseWeight, StagedGradient, local

from .factored import FactoredMoment
from .rules import Rule
from .sampled import SampledGradient
from .step_watch import StepWatch

__all__ = ["MomentumCollector", "keeps_factors", "window_of"]

_SAMPLE = 64
"""Active positions whose gradients tell whether anything was done to it since backward."""


def window_of(weight: SparseWeight, window: int | str | None) -> int | None:
    """The window of one weight in steps; None for all steps."""
    if window is None:
        return weight.default_window
    return None if isinstance(window, str) else window


def keeps_factors(weight: SparseWeight, rule: Rule | None, window: int | None, asked: bool | None) -> bool:
    """Returns whether the momentum of a weight is kept as factors of its gradients instead of as a dense tensor.

    It can be for compressed Linear layers in a single process, over a window, for SGD and for growth by gradient; it is
    so above `lazy.LARGEST_TENSOR` positions, or as `asked`. (Factors as large as the tensor would be are multiplied
    out.)

    Raises:
        ValueError: a tensor would have 2^31 elements or more.
    """
    possible = (
        not is_distributed()
        and weight.stages_products
        and window is not None
        and rule is not None
        and rule.keeps_products
    )
    factored = possible and (weight.numel > LARGEST_TENSOR if asked is None else asked)
    if rule is not None and not factored and weight.numel > LIMIT:
        raise ValueError(
            f"{weight.name}: momentum of its {weight.numel:,} positions takes {4 * weight.numel / 1e9:,.0f} GB as a "
            "tensor. Only compressed Linear layers in a single process can do without that tensor: use SGD with a "
            "window of some steps, such as window=20 (not factored=False), or growth at random or by gradient"
        )
    return factored


class MomentumCollector:
    """Collects the momentum that the inactive weights of one layer would have.

    Args:
        weight: the layer.
        rule: how its optimizer keeps momentum, or `LastGradient`; None: nothing is collected, it is only noted
            whether gradients arrive.
        window: number of steps before an update that are collected; None: all steps, and nothing is ever dropped.
        window_batch: examples of a batch that compressed storage collects from; None: all.
        factored: whether moments are kept as factors, see `keeps_factors`.
        update_every: steps between updates, so that it is noticed where none is seen; None: by hand.
        sampled: whether the last gradient is kept as a `SampledGradient`.
        winograd: whether compressed storage may compute gradients of convolutions by Winograd's algorithm.

    Attributes:
        saw_gradient: whether a step since the last update had a gradient.
        unknown: whether a gradient was set by hand, so that compressed storage knows none of inactive weights.
    """

    def __init__(
        self,
        weight: SparseWeight,
        rule: Rule | None,
        window: int | None,
        window_batch: int | None = None,
        factored: bool = False,
        update_every: int | None = None,
        sampled: bool = False,
        winograd: bool = False,
    ):
        self.factored = factored
        self.sampled = sampled
        self.winograd = winograd
        self.weight = weight
        self.rule = rule
        self.window = window
        self.collecting = rule is not None and window is None
        self.saw_gradient = False
        self.unknown = False
        self.steps = 0
        self.moments: dict[str, Any] = {}  # of tensors, FactoredMoments or SampledGradients
        self._arrived = False
        self._watch = StepWatch(update_every)
        self._heard: weakref.ref[Tensor] | None = None
        self._stepped: tuple[weakref.ref[Tensor] | None, int] = (None, 0)
        self._factor: float | None = None
        self._staged: StagedGradient | None = None
        self._before: Tensor | None = None
        self._source: weakref.ref[Tensor] | None = None
        self._version = 0
        self._window_batch = window_batch
        self._open()

    def _open(self) -> None:
        self.tap = self.weight.tap(self._stage, self._window_batch)
        self.tap.keeps_pairs = self.sampled
        self.tap.winograd = self.winograd
        self.tap.collect(self.collecting)

    def follow(self, weight: SparseWeight, window: int | None, factored: bool) -> None:
        """Goes on with a weight that has taken the place of the last one, in another storage; `close` first."""
        self.weight, self.window, self.factored = weight, window, factored
        self.collecting = self.rule is not None and window is None
        if window is not None:
            self.release()
        self._staged = self._before = self._source = self._heard = None
        self._stepped = (None, 0)
        self._open()

    def close(self) -> None:
        """Hears of no gradient any more."""
        self.tap.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the moments that are collected."""
        return self.rule.names if self.rule else ()

    @property
    def is_ready(self) -> bool:
        """Returns whether what is to be collected has been, at least in one step."""
        return self.rule is None or self.steps > 0

    def _stage(self, gradient: Tensor) -> None:
        """Keeps the dense gradient before inactive entries are zeroed; adds up over the micro-batches of a step."""
        self._arrived = True
        self._heard = weakref.ref(gradient)  # weakly, because zero_grad frees .grad
        self._watch.arrived(self.weight)
        if not self.collecting:
            return
        staged = self.tap.stage(self._staged, gradient, more=self._continues(gradient))
        if staged is None:
            self._source = None
            return
        self._staged = staged
        self._before = self.tap.remembered(self._staged, gradient)
        self._source = weakref.ref(gradient)
        # masked storage zeroes inactive entries after this call, which is a write of its own and no new micro-batch
        self._version = gradient._version + self.tap.writes_after_listener

    def _continues(self, gradient: Tensor) -> bool:
        """Returns whether .grad is that of the last call, with one more micro-batch in it, and not of a new step."""
        if self._source is None or self._source() is not gradient:
            return False
        # a view shares its version with whatever else is written into the same memory, so that it tells nothing
        return gradient._is_view() or gradient._version == self._version + 1

    def backward_ended(self) -> None:
        """In several processes: .grad is the mean over ranks from now on, and nothing else has been done to it yet."""
        gradient = self.weight.gradient
        self._heard = None if gradient is None else weakref.ref(gradient)
        if not self.collecting or gradient is None:
            return
        # what this rank has is 0 then, and still takes part in the mean
        if self._source is None:  # the weight was used on other ranks only
            self._staged = StagedGradient()
        self._before = gradient.detach().clone()
        self._source = weakref.ref(gradient)
        self._version = gradient._version

    def average_staged(self) -> None:
        """Makes what is staged the mean over ranks; all ranks call it, whatever they have."""
        if not self.collecting or self.tap.averaged:
            return
        own = StagedGradient() if self._staged is None or self._source is None else self._staged
        self._staged = StagedGradient(mean_(own.multiplied_out(1.0, like=self.tap.new_moment())))

    def average_moments(self, steps: int) -> None:
        """Makes the moments means over ranks, where their rule allows it, after at most `steps` steps on any rank."""
        self.steps = steps
        if self.rule is None or not self.rule.linear or self.tap.averaged or steps == 0:
            return
        if self.sampled:
            self.sampled_gradient.average()
            return
        self.moments = self.moments or {name: self.tap.new_moment() for name in self.rule.names}
        for moment in self.moments.values():
            mean_(moment)

    def measure(self) -> float | None:
        """Returns what was done to the gradient since backward (clipping, unscaling), as a factor; for before a step.

        With g the active gradient that was staged and g' what it is now: (g' g') / (g' g). None where g is 0, so
        that nothing can be told; 0 where g' is 0, and where the gradient overflowed in inactive positions alone, where
        gradient scalers do not look. A gradient that is gone is dropped.
        """
        self._factor = None
        self._watch.reset()
        gradient = self.weight.gradient
        if gradient is None:
            self.drop()
        elif (self._heard is None or self._heard() is not gradient) and not self._was_stepped(gradient):
            self._take_by_hand(gradient)
        if gradient is None or self._staged is None or self._source is None:
            return None
        # scalers look at .grad alone, so that an overflow in inactive positions would pass them
        finite = self._staged.is_finite()
        if finite and self._is_as_staged(gradient.detach()):
            self._factor = 1.0
            return self._factor
        size, overlap = self._products(gradient.detach(), torch.promote_types(gradient.dtype, torch.float32))
        # squares of gradients below about 1e-23 are 0 in float32
        if size == 0:  # or too small to square
            size, overlap = self._products(gradient.detach(), torch.float64)
        if not math.isfinite(size):
            self._factor = 1.0  # the weights are lost; the next update will say so
        elif overlap > 0 and finite:
            self._factor = size / overlap
        elif size > 0 or self._before.take(self.weight.sample(self._before.numel())).any():  # type: ignore[union-attr]
            self._factor = 0.0
        return self._factor

    def _was_stepped(self, gradient: Tensor) -> bool:
        """Returns whether it is that of the last step, which nobody has zeroed or written to since."""
        last, version = self._stepped
        return last is not None and last() is gradient and version == gradient._version

    def _take_by_hand(self, gradient: Tensor) -> None:
        """Stages a .grad that no backward pass has put there, as `torch.autograd.grad` and hands do.

        What comes by a backward pass and is replaced by its multiple, or by a tensor that knows active weights alone,
        stays staged as it came.
        """
        staged = self.tap.stage_by_hand(gradient)
        if self._arrived and (staged is None or not self.tap.knows_all(staged)):
            return
        self._arrived = bool(gradient.any())  # zeros are those of a layer that took no part
        if not self.collecting or not self._arrived:
            return
        self.unknown |= staged is None
        if staged is not None:
            self._staged, self._source = staged, weakref.ref(gradient)
            self._before, self._version = self.tap.remembered(staged, gradient), gradient._version

    def _is_as_staged(self, gradient: Tensor) -> bool:
        """Returns whether a sample of the active gradient, not all 0, is unchanged: scaling changes all of it."""
        assert self._before is not None
        sample = self.weight.sample(_SAMPLE)
        before = self._before.take(sample)
        return bool(before.any()) and torch.equal(before, gradient.take(sample))

    def _products(self, gradient: Tensor, dtype: torch.dtype) -> tuple[float, float]:
        assert self._before is not None
        now, before = gradient.reshape(-1).to(dtype), self._before.reshape(-1).to(dtype)
        return float(now @ now), float(now @ before)

    def fold(self, group: Mapping[str, Any], common_factor: float, unscale: float = 1.0) -> None:
        """Folds the staged gradient into the momentum, after the optimizer has stepped.

        Args:
            common_factor: stands in where `measure` could tell nothing.
            unscale: factor by which the optimizer itself multiplies gradients.
        """
        # noted here and not when it arrives: a step that the optimizer skips trains nothing
        self.saw_gradient |= self._arrived
        self._arrived = False
        self._heard = None
        gradient = self.weight.gradient
        self._stepped = (None, 0) if gradient is None else (weakref.ref(gradient), gradient._version)
        if self.rule is None or self._staged is None or self._source is None:
            return
        factor = (common_factor if self._factor is None else self._factor) * unscale
        # the optimizer negates gradients before they enter its momentum
        if group.get("maximize", False):
            factor = -factor
        if self.sampled:
            self.moments = {}
            self.sampled_gradient.take(self._staged, factor)
        else:
            self._make_moments(self._staged)
            self.rule.fold(self.moments, self._staged, factor, group)
        self.steps += 1
        self.drop()

    def _make_moments(self, staged: StagedGradient) -> None:
        """Makes the moments that `staged` can be folded into: factors, while they are fewer numbers than positions."""
        assert self.rule is not None
        kept = sum(m.size for m in self.moments.values() if isinstance(m, FactoredMoment))
        # factors grow with each step of a window; once they are as large as the tensor, the tensor is cheaper
        factored = self.factored and staged.tensor is None and kept + staged.factors < self.weight.numel
        if not self.moments:
            make = self._new_factored if factored else self.tap.new_moment
            self.moments = {name: make() for name in self.rule.names}
        elif not factored:
            known = self.moments.items()
            self.moments = {n: m.multiplied_out() if isinstance(m, FactoredMoment) else m for n, m in known}

    @property
    def sampled_gradient(self) -> SampledGradient:
        """The gradient of the last step; an empty one where there is none, as on a rank that did not use the layer."""
        return self.moments.setdefault("gradient", SampledGradient(self.weight))

    def _new_factored(self) -> FactoredMoment:
        return FactoredMoment(self.weight.shape, self.weight.parameter.dtype)

    def staged(self, common_factor: float) -> Tensor | None:
        """The gradient of all positions as the optimizer would see it, after `measure`; None where there is none."""
        if self._staged is None or self._source is None:
            return None
        factor = common_factor if self._factor is None else self._factor
        return self._staged.multiplied_out(factor, like=self.weight.parameter.detach())

    def drop(self) -> None:
        """Forgets the staged gradient: the step was skipped."""
        self._arrived = False
        self._heard = None
        self._source = None

    def collect(self, on: bool) -> None:
        """Opens or closes the window."""
        on = on and self.rule is not None
        if self.collecting == on:
            return
        self.collecting = on
        self._source = None
        self.tap.collect(on)

    def release(self) -> None:
        """Frees the memory: what has been collected is not needed any more."""
        self.moments, self.steps = {}, 0
        self._staged = self._before = self._source = None

    def sync(self, state: Mapping[str, Any], group: Mapping[str, Any]) -> None:
        """With window=None: active positions take the optimizer's own moments, so just-pruned ones keep theirs."""
        if self.rule is None or self.window is not None or not self.moments:
            return
        indices = self.weight.indices
        own = {name: self.weight.take(state[name]) for name in self.moments if isinstance(state.get(name), Tensor)}
        if len(own) == len(self.moments):
            age = float(state.get("step", self.steps))
            for name, values in self.rule.aged(own, age, self.steps, group, full=True).items():
                self.weight.place(self.moments[name], indices, values)

    def scores(self, group: Mapping[str, Any]) -> Tensor | LazyScores:
        """|M| at every position, shape (numel,), or where it is largest; 0 where nothing has been collected."""
        if self.rule is None or not self.moments:
            if self.factored:
                return self._new_factored()
            return torch.zeros(self.weight.numel, device=self.weight.parameter.device)
        score = self.rule.score(self.moments, max(self.steps, 1), group)
        return self.weight.whole(score).abs() if isinstance(score, Tensor) else score

    def grown_state(self, positions: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Tensor]:
        """Optimizer state with which weights at `positions` enter."""
        if self.rule is None or not self.moments or self.steps == 0:
            return {}
        moments = {name: self.weight.pick(moment, positions) for name, moment in self.moments.items()}
        return self.rule.aged(moments, self.steps, float(state.get("step", self.steps)), group, self.window is None)

    def after_update(self) -> None:
        """Starts the next interval; a window's momentum is given back."""
        self.saw_gradient = self.unknown = False
        # moments over all steps go on, as the paper has them; those of a window are not needed until the next one
        if self.window is not None:
            self.release()

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state for copies: between backward and step nothing, because .grad is not copied either."""
        nothing = {"tap": None, "_staged": None, "_before": None, "_source": None, "_heard": None}
        return self.__dict__ | nothing | {"_arrived": False, "_stepped": (None, 0)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"sampled": False, "winograd": False} | state)
        self._open()

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "saw_gradient": self.saw_gradient, "moments": self._moments_state()}

    def _moments_state(self) -> dict[str, Any]:
        known = self.moments.items()
        return {n: self.weight.pack(m) if isinstance(m, Tensor) else m.state_dict() for n, m in known}

    def all_moments(self) -> dict[str, Any]:
        """The moments as `state_dict` has them; zeros where there are none yet."""
        return {name: self.weight.pack(self.moments.get(name, self.tap.new_moment())) for name in self.names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        like = self.weight.parameter
        self.release()
        self.steps = state["steps"]
        self.saw_gradient = state["saw_gradient"]
        for name, value in state["moments"].items():
            if isinstance(value, Tensor):
                self.moments[name] = local(value).to(like.device).clone()
            else:
                self.moments[name] = SampledGradient(self.weight) if self.sampled else self._new_factored()
                self.moments[name].load_state_dict(value)
