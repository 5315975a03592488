"""Momentum is compared only where the optimizer keeps it as a rule here does."""

import pytest
import torch

import regrow
from helpers import mlp
from regrow.momentum.rules import AdamMoments, FirstMoment, Moments, optimizer_rule

OPTIM = torch.optim


def rule_of(make, storage="masked"):
    model = regrow.sparsify(mlp(8, 12, 4), 0.3, storage=storage, seed=0)
    optimizer = make(model.parameters())
    weight = regrow.sparse_weights(model)["0.weight"]
    return optimizer_rule(optimizer, optimizer.param_groups[0], weight)


def with_settings(kind, **settings):
    return lambda parameters: kind(parameters, **settings)


class Renamed(OPTIM.AdamW):
    """A name says nothing."""


RULES = {
    "sgd": (with_settings(OPTIM.SGD, lr=0.1, momentum=0.9), Moments),
    "nesterov": (with_settings(OPTIM.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1), Moments),
    "dampening": (with_settings(OPTIM.SGD, lr=0.1, momentum=0.9, dampening=0.5, maximize=True), Moments),
    "lr 0": (with_settings(OPTIM.SGD, lr=0.0, momentum=0.9), Moments),
    "adam": (with_settings(OPTIM.Adam, weight_decay=0.1), AdamMoments),
    "amsgrad": (with_settings(OPTIM.Adam, amsgrad=True), AdamMoments),
    "lr of a tensor": (with_settings(OPTIM.Adam, lr=torch.tensor(0.1), foreach=False), AdamMoments),
    "maximize": (with_settings(OPTIM.AdamW, maximize=True), AdamMoments),
    "renamed": (Renamed, AdamMoments),
    "nadam": (OPTIM.NAdam, AdamMoments),
    "radam": (OPTIM.RAdam, AdamMoments),
    "adamax": (OPTIM.Adamax, FirstMoment),
}


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("kind", RULES)
def test_the_rule_of_an_optimizer(kind, storage):
    make, rule = RULES[kind]
    assert rule_of(make, storage) is rule


class Foreign(OPTIM.Optimizer):
    """Keeps what `keep` says."""

    def __init__(self, parameters, **settings):
        super().__init__(parameters, {"lr": 0.1, **settings})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                self.keep(parameter.grad, state, group)
                parameter -= group["lr"] * parameter.grad


class Lion(Foreign):
    def keep(self, gradient, state, group):
        state["exp_avg"] = state.get("exp_avg", 0) * group["betas"][1] + (1 - group["betas"][1]) * gradient


class Averaged(Foreign):
    """An average under the name of a sum."""

    def keep(self, gradient, state, group):
        state["momentum_buffer"] = state.get("momentum_buffer", 0) * 0.9 + 0.1 * gradient


class WithoutCount(Foreign):
    """Adam's moments, with the count of steps in the group."""

    def keep(self, gradient, state, group):
        beta1, beta2 = group["betas"]
        group["step"] = group.get("step", 0) + 1
        state["exp_avg"] = state.get("exp_avg", 0) * beta1 + (1 - beta1) * gradient
        state["exp_avg_sq"] = state.get("exp_avg_sq", 0) * beta2 + (1 - beta2) * gradient**2


class WithMore(WithoutCount):
    """And another average beside them."""

    def keep(self, gradient, state, group):
        super().keep(gradient, state, group)
        state["step"] = torch.tensor(float(group["step"]))
        state["slow"] = state.get("slow", 0) * 0.999 + gradient


BETAS = {"betas": (0.9, 0.99)}
REFUSED = {
    "adadelta": (OPTIM.Adadelta, "Adadelta.*keeps no momentum"),
    "sgd": (with_settings(OPTIM.SGD, lr=0.1), r"momentum=0; give the optimizer momentum"),
    "rmsprop": (with_settings(OPTIM.RMSprop, momentum=0.9), r"RMSprop.*momentum_buffer.*other units"),
    "lion": (with_settings(Lion, **BETAS), r"Lion.*keeps exp_avg of each weight, and not exp_avg and exp_avg_sq"),
    "average": (with_settings(Averaged, momentum=0.9), r"Averaged.*momentum_buffer.*other units"),
    "count": (with_settings(WithoutCount, **BETAS), "counts its steps elsewhere"),
    "more": (with_settings(WithMore, **BETAS), "keeps slow beside exp_avg and exp_avg_sq"),
    "lbfgs": (OPTIM.LBFGS, "LBFGS.*keeps no momentum"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_momentum_is_refused_with_the_reason_and_the_methods_that_work(kind):
    make, message = REFUSED[kind]
    with pytest.raises(ValueError, match=rf"{message}.*RigL.*SET.*growth='gradient', redistribution='gradient'"):
        rule_of(make)


OTHERS = {
    "schedule-free": ("schedulefree", lambda m, p: m.AdamWScheduleFree(p), "keeps exp_avg_sq, z of each weight"),
    "adan": ("timm.optim", lambda m, p: m.Adan(p), "other units"),
    "madgrad": ("timm.optim", lambda m, p: m.MADGRAD(p), "keeps grad_sum_sq, s, x0"),
    "novograd": ("timm.optim", lambda m, p: m.NvNovoGrad(p), "keeps exp_avg of each weight"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_optimizers_of_other_packages(kind):
    package, make, message = OTHERS[kind]
    module = pytest.importorskip(package)
    with pytest.raises(ValueError, match=message):
        rule_of(lambda parameters: make(module, list(parameters)))
