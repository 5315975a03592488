"""How optimizers keep momentum: what they add up, and what M is.

M = mu * M + (1 - dampening) * g for SGD; m_hat / (sqrt(v_hat) + eps), bias-corrected, for Adam-like optimizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .weights import SparseWeight, StagedGradient

__all__ = ["LastGradient", "Rule", "check_shapes", "momentum_of_state", "optimizer_rule"]


class Moments:
    """SGD's rule: one moment, the momentum buffer."""

    names = ("momentum_buffer",)
    linear = True
    """Whether the moments of a mean of gradients are the mean of their moments."""
    keeps_products = True
    """Whether the moment is a weighted sum of gradients, so that factors of them can stand for it."""

    @staticmethod
    def check(group: Mapping[str, Any]) -> str | None:
        """What is wrong with the group's settings, or None."""
        if not group["momentum"] > 0:
            return f"momentum={group['momentum']}; give the optimizer momentum, such as momentum=0.9"
        return None

    @staticmethod
    def fold(moments: Mapping[str, Tensor], gradient: StagedGradient, factor: float, group: Mapping[str, Any]) -> None:
        """Takes in factor * gradient."""
        gradient.fold_into(
            moments["momentum_buffer"], decay=group["momentum"], factor=factor * (1 - group.get("dampening", 0))
        )

    @staticmethod
    def score(moments: Mapping[str, Tensor], steps: float, group: Mapping[str, Any]) -> Tensor:
        """M of each element."""
        return moments["momentum_buffer"]

    @staticmethod
    def aged(moments: Mapping[str, Tensor], steps: float, age: float, group: Mapping[str, Any], full: bool):
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
    def aged(moments: Mapping[str, Tensor], steps: float, age: float, group: Mapping[str, Any], full: bool):
        """Moments of `steps` steps as an optimizer `age` steps old holds them: m_hat * (1 - beta1^age), and so v."""
        betas = dict(zip(("exp_avg", "exp_avg_sq"), map(float, group["betas"][:2]), strict=True))
        return {name: m * ((1 - betas[name] ** age) / (1 - betas[name] ** steps)) for name, m in moments.items()}


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
    def aged(moments: Mapping[str, Tensor], steps: float, age: float, group: Mapping[str, Any], full: bool):
        """Nothing: no optimizer keeps this."""
        return {}


_SHAPE_DEPENDENT = {"Adafactor", "LAMB", "Lamb", "LARS", "Lars", "Muon", "Shampoo", "SOAP"}
"""Optimizers that read the parameter's shape or norm, which a compressed parameter does not have."""

_OTHER_UNITS = {"RMSprop", "Muon"}
"""Optimizers with a momentum buffer that is not a sum of gradients: of normalised ones, or an average."""

Rule = type[Moments] | type[AdamMoments] | type[LastGradient]


def check_shapes(optimizer: torch.optim.Optimizer, weight: SparseWeight) -> None:
    """Raises ValueError where the optimizer reads shapes of parameters, and the weight is stored compressed."""
    kind = type(optimizer).__name__
    if weight.storage == "compressed" and kind in _SHAPE_DEPENDENT:
        raise ValueError(
            f"{kind} reads shapes or norms of parameters, and {weight.name} is stored compressed; use SGD, Adam or "
            "AdamW, or sparsify(..., storage='masked')"
        )


def optimizer_rule(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], weight: SparseWeight) -> Rule:
    """How the optimizer of this parameter group keeps momentum.

    Raises:
        ValueError: it keeps none, its momentum is switched off, or it does not go with the weight's storage.
    """
    kind, name = type(optimizer).__name__, weight.name
    rule: Rule
    check_shapes(optimizer, weight)
    if kind in _OTHER_UNITS:
        raise ValueError(
            f"{kind}, which trains {name}, keeps its momentum in other units than the gradient, so active and missing "
            "weights could not be compared; use SGD, Adam or AdamW"
        )
    if "betas" in group:
        rule = AdamMoments
    elif "momentum" in group:
        rule = Moments
    else:
        raise ValueError(
            f"{kind}, which trains {name}, keeps no momentum (its parameter group has neither 'momentum' nor 'betas'); "
            "use torch.optim.SGD(momentum=0.9), Adam or AdamW, or an updater that needs no momentum"
        )
    if wrong := rule.check(group):
        raise ValueError(f"{kind} trains {name} with {wrong}, or use an updater that needs no momentum")
    return rule


def momentum_of_state(weight: SparseWeight, state: Mapping[str, Any], group: Mapping[str, Any], rule: Rule) -> Tensor:
    """M of the active weights, shape (active,): SGD's buffer, or Adam's bias-corrected m_hat / (sqrt(v_hat) + eps)."""
    moments = {name: weight.take(state[name]) for name in rule.names if isinstance(state.get(name), Tensor)}
    if rule.names[0] not in moments:
        raise RuntimeError(
            f"the optimizer has no {rule.names[0]} for {weight.name} yet; take an optimizer step before the update"
        )
    return rule.score(moments, float(state.get("step", 0)), group)
