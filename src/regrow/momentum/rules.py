"""Momentum as optimizers keep it: what they add up, and what M is.

M = mu * M + (1 - dampening) * g for SGD; m_hat / (sqrt(v_hat) + eps), bias-corrected, for Adam-like optimizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regrow.optimizers.probe import traits_of
from regrow.optimizers.twins import Run
from regrow.weights import SparseWeight, StagedGradient

__all__ = ["LastGradient", "Rule", "momentum_of_state", "optimizer_rule"]


class Moments:
    """SGD's rule: one moment, the momentum buffer."""

    names = ("momentum_buffer",)
    linear = True
    """True if the moments of a mean of gradients are the mean of their moments."""
    keeps_products = True
    """True if the moment is a weighted sum of gradients, so that factors of them can stand for it."""

    @staticmethod
    def check(group: Mapping[str, Any]) -> str | None:
        """Returns what is wrong with the group's settings, or None."""
        if not group["momentum"] > 0:
            return f"momentum={group['momentum']}; give the optimizer momentum, such as momentum=0.9"
        return None

    @staticmethod
    def fold(moments: Mapping[str, Tensor], gradient: StagedGradient, factor: float, group: Mapping[str, Any]) -> None:
        """Adds factor * gradient."""
        gradient.fold_into(
            moments["momentum_buffer"], decay=group["momentum"], factor=factor * (1 - group.get("dampening", 0))
        )

    @staticmethod
    def score(moments: Mapping[str, Tensor], steps: float, group: Mapping[str, Any]) -> Tensor:
        """M of each element."""
        return moments["momentum_buffer"]

    @staticmethod
    def aged(
        moments: Mapping[str, Tensor], steps: float, age: float, group: Mapping[str, Any], full: bool
    ) -> dict[str, Tensor]:
        """Moments of `steps` steps as an optimizer holds them: M / (1 - mu^steps) makes up for what a window forgot."""
        scale = 1.0 if full else 1 / (1 - group["momentum"] ** steps)
        return {"momentum_buffer": moments["momentum_buffer"] * scale}


class AdamMoments:
    """The rule of Adam-like optimizers: exponential averages of the gradient and of its square."""

    names = ("exp_avg", "exp_avg_sq")
    linear = False
    keeps_products = False  # the square of a sum of products is none

    @staticmethod
    def check(group: Mapping[str, Any]) -> str | None:
        if not group["betas"][0] > 0:
            return f"betas={tuple(group['betas'])}; give the optimizer momentum, such as betas=(0.9, 0.999)"
        return None

    @staticmethod
    def fold(moments: Mapping[str, Tensor], gradient: StagedGradient, factor: float, group: Mapping[str, Any]) -> None:
        beta1, beta2 = map(float, group["betas"][:2])
        tensor = gradient.multiplied_out(factor, like=moments["exp_avg"])
        moments["exp_avg"].mul_(beta1).add_(tensor, alpha=1 - beta1)
        moments["exp_avg_sq"].mul_(beta2).addcmul_(tensor, tensor, value=1 - beta2)

    @staticmethod
    def score(moments: Mapping[str, Tensor], steps: float, group: Mapping[str, Any]) -> Tensor:
        """m_hat / (sqrt(v_hat) + eps), bias-corrected for `steps` steps."""
        beta1, beta2 = map(float, group["betas"][:2])
        first = moments["exp_avg"] / (1 - beta1**steps)
        if "exp_avg_sq" not in moments:
            return first
        second = moments["exp_avg_sq"] / (1 - beta2**steps)
        return first / (second.sqrt_() + group.get("eps", 1e-8))

    @staticmethod
    def aged(
        moments: Mapping[str, Tensor], steps: float, age: float, group: Mapping[str, Any], full: bool
    ) -> dict[str, Tensor]:
        """Moments of `steps` steps as an optimizer `age` steps old holds them: m_hat * (1 - beta1^age), and so v."""
        betas = dict(zip(("exp_avg", "exp_avg_sq"), map(float, group["betas"][:2]), strict=True))
        return {name: m * ((1 - betas[name] ** age) / (1 - betas[name] ** steps)) for name, m in moments.items()}


class FirstMoment:
    """The rule of optimizers with Adam's average of the gradient and another magnitude, such as Adamax: M = m_hat."""

    names = ("exp_avg",)
    linear = True
    keeps_products = False

    @staticmethod
    def check(group: Mapping[str, Any]) -> str | None:
        return AdamMoments.check(group)

    @staticmethod
    def fold(moments: Mapping[str, Tensor], gradient: StagedGradient, factor: float, group: Mapping[str, Any]) -> None:
        beta = float(group["betas"][0])
        gradient.fold_into(moments["exp_avg"], decay=beta, factor=factor * (1 - beta))

    @staticmethod
    def score(moments: Mapping[str, Tensor], steps: float, group: Mapping[str, Any]) -> Tensor:
        return moments["exp_avg"] / (1 - float(group["betas"][0]) ** steps)

    @staticmethod
    def aged(
        moments: Mapping[str, Tensor], steps: float, age: float, group: Mapping[str, Any], full: bool
    ) -> dict[str, Tensor]:
        beta = float(group["betas"][0])
        return {"exp_avg": moments["exp_avg"] * ((1 - beta**age) / (1 - beta**steps))}


class LastGradient:
    """No momentum: the gradient of the last step alone, for methods that grow by gradient."""

    names = ("gradient",)
    linear = True
    keeps_products = True

    @staticmethod
    def check(group: Mapping[str, Any]) -> str | None:
        return None

    @staticmethod
    def fold(moments: Mapping[str, Tensor], gradient: StagedGradient, factor: float, group: Mapping[str, Any]) -> None:
        gradient.fold_into(moments["gradient"].zero_(), decay=1.0, factor=factor)

    @staticmethod
    def score(moments: Mapping[str, Tensor], steps: float, group: Mapping[str, Any]) -> Tensor:
        return moments["gradient"]

    @staticmethod
    def aged(
        moments: Mapping[str, Tensor], steps: float, age: float, group: Mapping[str, Any], full: bool
    ) -> dict[str, Tensor]:
        """Returns nothing: no optimizer keeps this."""
        return {}


Rule = type[Moments] | type[AdamMoments] | type[FirstMoment] | type[LastGradient]

_OTHER_UNITS = {"RMSprop", "Muon"}
"""Optimizers with a momentum buffer that is no sum of gradients, known by name where they cannot be probed."""

_TOLERANCE = 1e-4
"""Tolerance for moments, relative to the largest: rounding differs between a rule and an optimizer."""

_METHODS = (
    "or a method that needs no momentum: regrow.RigL, regrow.SET or regrow.SparseMomentum(growth='gradient', "
    "redistribution='gradient')"
)


def optimizer_rule(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], weight: SparseWeight) -> Rule:
    """Returns how the optimizer of this parameter group keeps momentum, by what it does with gradients (see `probe`).

    Raises:
        ValueError: it keeps none, its momentum is switched off, or it keeps another kind than SGD and Adam do.
    """
    kind, name = type(optimizer).__name__, weight.name
    settings: dict[Rule, str] = {AdamMoments: "betas", FirstMoment: "betas", Moments: "momentum"}
    rules = [rule for rule, setting in settings.items() if setting in group]
    if not rules:
        raise ValueError(
            f"{kind}, which trains {name}, keeps no momentum (its parameter group has neither 'momentum' nor 'betas'); "
            f"use torch.optim.SGD(momentum=0.9), Adam or AdamW, {_METHODS}"
        )
    if wrong := rules[0].check(group):
        raise ValueError(f"{kind} trains {name} with {wrong}, {_METHODS}")
    traits = traits_of(optimizer, group, weight)
    reasons = [_by_name(kind) if traits is None else _mismatch(rule, traits.plain) for rule in rules]
    if reasons[0] and all(reasons):
        raise ValueError(f"{kind}, which trains {name}, {reasons[0]}; use SGD, Adam or AdamW, {_METHODS}")
    return rules[reasons.index(None)]


def _by_name(kind: str) -> str | None:
    return _UNITS.format(names="momentum_buffer") if kind in _OTHER_UNITS else None


_UNITS = (
    "keeps its momentum ({names}) in other units than the gradient or than Adam does, so active and inactive weights "
    "could not be compared"
)


def _mismatch(rule: Rule, run: Run) -> str | None:
    """Why the state of a twin is not what the rule makes of the same gradients, or None."""
    last = run.states[-1]
    kept = [name for name, value in last.items() if isinstance(value, Tensor) and value.shape == run.parameter.shape]
    if not {*rule.names} <= {*kept}:
        has = ", ".join(sorted(kept)) or "nothing"
        return f"keeps {has} of each weight, and not {' and '.join(rule.names)}, of which momentum is made here"
    if not all(_folds(rule, run, step) for step in range(len(run.states))):
        return _UNITS.format(names=", ".join(rule.names))
    if more := [name for name in kept if name not in rule.names and bool((last[name] < 0).any())]:
        return f"keeps {', '.join(more)} beside {' and '.join(rule.names)}, which no rule of momentum here knows"
    if rule is not Moments and _age(last) - _age(run.start) != len(run.states):
        return "counts its steps elsewhere than in the state of each weight, so its momentum has no known age"
    return None


def _folds(rule: Rule, run: Run, step: int) -> bool:
    """Returns whether the moments after one step are those before it with the gradient folded in by the rule."""
    before, after = (run.states[step - 1] if step else run.start), run.states[step]
    sign = -1.0 if run.group.get("maximize", False) else 1.0
    gradient = run.gradients[step]
    moments = {name: before.get(name, torch.zeros_like(gradient)).clone() for name in rule.names}
    rule.fold(moments, StagedGradient(gradient.clone()), sign, run.group)
    if step == 0 and rule is Moments and _close(after[rule.names[0]], sign * gradient):  # torch's SGD, undampened
        return True
    return all(_close(after[name], moments[name]) for name in rule.names)


def _close(left: Any, right: Tensor) -> bool:
    largest = float(right.abs().max())
    return isinstance(left, Tensor) and bool((left - right).abs().max() <= _TOLERANCE * largest)


def _age(state: Mapping[str, Any]) -> float:
    return float(state.get("step", 0))


def momentum_of_state(weight: SparseWeight, state: Mapping[str, Any], group: Mapping[str, Any], rule: Rule) -> Tensor:
    """M of the active weights, shape (active,): SGD's buffer, or Adam's bias-corrected m_hat / (sqrt(v_hat) + eps)."""
    moments = {name: weight.take(state[name]) for name in rule.names if isinstance(state.get(name), Tensor)}
    if rule.names[0] not in moments:
        raise RuntimeError(
            f"the optimizer has no {rule.names[0]} for {weight.name} yet; take an optimizer step before the update"
        )
    return rule.score(moments, float(state.get("step", 0)), group)
