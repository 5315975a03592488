"""The training methods: how a network is made sparse, and what moves its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn, optim

import regrow

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["METHODS", "make_sparse", "make_updater", "prunable_weights"]


def _sparse_momentum(model: nn.Module, optimizer: optim.Optimizer, settings: Settings, total_steps: int) -> Any:
    recipe = settings.recipe
    return regrow.SparseMomentum(
        model,
        optimizer,
        total_steps=total_steps,
        update_every=None,
        prune_rate=recipe.prune_rate,
        schedule=recipe.prune_schedule,
        share=recipe.share,
        max_density=recipe.max_density,
        flops_budget=recipe.flops_budget,
        window=recipe.window,
        window_batch=recipe.window_batch,
        seed=settings.seed,
    )


def _static(model: nn.Module, optimizer: optim.Optimizer, settings: Settings, total_steps: int) -> Any:
    return regrow.Static(model, optimizer)


METHODS: dict[str, Callable[[nn.Module, optim.Optimizer, Settings, int], Any] | None] = {
    "sparse-momentum": _sparse_momentum,
    "dense": None,
    "static": _static,
}


def make_sparse(model: nn.Module, settings: Settings, masks: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The network as the method trains it: itself when dense; with the active sets of `masks`, if there are any."""
    if METHODS[settings.method] is None:
        return model
    recipe = settings.recipe
    return regrow.sparsify(
        model,
        settings.density if masks is None else None,
        distribution=recipe.distribution,
        init="random" if masks is None else masks,
        dense=list(recipe.dense),
        storage=settings.storage,
    )


def make_updater(model: nn.Module, optimizer: optim.Optimizer, settings: Settings, total_steps: int) -> Any | None:
    """The updater of the method; None when dense."""
    make = METHODS[settings.method]
    return make(model, optimizer, settings, total_steps) if make else None


def prunable_weights(model: nn.Module, dense: tuple[str, ...] = ()) -> int:
    """How many weights of a dense network `sparsify` would make sparse; the network is not touched."""
    twin = regrow.sparsify(copy.deepcopy(model), 1.0, dense=list(dense), storage="masked", seed=0)
    return sum(weight.numel for weight in regrow.sparse_weights(twin).values())
