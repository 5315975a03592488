"""Sparse momentum, the method that regrow was made for, and the ablations of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

import regrow.criteria as criteria
from regrow._renamed import renamed_arguments
from regrow.redistribution import RULES, Amount, by_importance, by_rate, globally
from regrow.schedules import prune_rate_schedule

from .composed import Collect, ComposedUpdater

__all__ = ["SparseMomentum"]

_IMPORTANCE: dict[str, criteria.Importance] = {
    "momentum": criteria.mean_momentum,
    "none": criteria.mean_momentum,
    "momentum-per-flop": criteria.mean_momentum,
    "gradient": criteria.mean_gradient,
    "magnitude": criteria.mean_magnitude,
    "non-zeros": criteria.active_weights,
}

_GROWTH: dict[str, tuple[criteria.GrowScore, Collect | None]] = {
    "momentum": (criteria.inactive_momentum, "momentum"),
    "global-momentum": (criteria.inactive_momentum, "momentum"),
    "gradient": (criteria.inactive_gradient, "gradient"),
    "sampled-gradient": (criteria.sampled_gradient(), "sampled-gradient"),
    "random": (criteria.random, None),
}


_PRUNING: dict[str, Amount] = {"magnitude": by_rate, "global-magnitude": globally}


class SparseMomentum(ComposedUpdater):
    """Sparse momentum (Dettmers & Zettlemoyer 2019, arXiv:1907.04840, section 3 and algorithm 1).

    At an update each layer prunes its active weights of smallest magnitude. The freed weights are redistributed among
    layers by the mean momentum magnitude of their active weights. Each layer then grows the inactive weights of largest
    momentum magnitude, which start at 0 with the momentum that was collected for them.

    Args:
        model: a model from `sparsify`.
        optimizer: any whose state has `momentum_buffer` (SGD) or `exp_avg` (Adam, AdamW, ...), momentum not 0.
        total_steps: optimizer steps T of the whole training; the prune rate is annealed over them.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`.
        prune_rate: p0, fraction of a layer's active weights that the first update prunes, in [0, 1).
        schedule: "cosine" (to 0.005), "linear" (to 0) or "constant".
        redistribution: "momentum" (the paper), "none" (each layer keeps its number of weights), "momentum-per-flop";
            for the ablation also "gradient" or "magnitude" (means of the last step's |g| or of |w| over active
            weights) or "non-zeros" (their number).
        growth: "momentum" (the paper); "global-momentum" (the largest of the whole network, wherever they lie, as
            "global_momentum_growth" of the reference implementation, so that nothing is redistributed); for the
            ablation "gradient" (of the last step), "sampled-gradient" (as `GSE` does, at no cost that grows with
            inactive weights) or "random". With the latter three, grown weights start with momentum 0 and their layer's
            mean second moment.
        pruning: "magnitude" (the paper: the smallest of each layer) or "global-magnitude" (as many in total, the
            smallest of the whole network).
        inherit_momentum: grown weights start with the momentum that was collected for them (the paper). False: they
            start with momentum 0, which disturbs the training less (docs/decisions/0012-entering-momentum.md).
        per_neuron: distribute a layer's growth among its neurons by their sums of grow scores, like "momentum_neuron"
            of the reference implementation, not over the layer as a whole.
        max_density: no layer grows above this density, or above its initial density if that is higher; in (0, 1].
        flops_budget: FLOP density of the sparse weights that redistribution by momentum stays within, in (0, 1].
        window: steps before an update in which the momentum of inactive weights is collected, at least 1; "all": in
            all steps, as published; None: "all" for masked weights, `weights.compressed.DEFAULT_WINDOW` for
            compressed ones.
        window_batch: number of examples of a batch (for Linear, vectors: N * T of an (N, T, F) input) used for the
            gradients of inactive weights in compressed storage; None: all.
        factored: keep the momentum of inactive weights of compressed Linear layers under SGD as the factors of the
            window's gradients, without a tensor of dense size (docs/wide.md). None: above 2^26 positions.
        winograd: compute the gradients of inactive weights of compressed 3x3 convolutions with stride 1 and many
            channels by Winograd's algorithm (docs/window.md), which differs by rounding and costs less.
        seed: seed of random growth and of samples, 0 by default. Sparse momentum itself draws nothing at random.

    Raises:
        ValueError: the model is not sparse, the optimizer lacks a sparse weight or momentum, or a value is out of
            range; the message names the remedy, and nothing is changed.

    Example:
        >>> model = regrow.sparsify(model, density=0.05)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> updater = regrow.SparseMomentum(model, optimizer, total_steps=54_000, update_every=540)
    """

    method = "sparse-momentum"

    @renamed_arguments(share="redistribution")
    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        prune_rate: float = 0.5,
        schedule: str = "cosine",
        redistribution: str = "momentum",
        growth: str = "momentum",
        pruning: str = "magnitude",
        inherit_momentum: bool = True,
        per_neuron: bool = False,
        max_density: float | None = None,
        flops_budget: float | None = None,
        window: int | Literal["all"] | None = None,
        window_batch: int | None = None,
        factored: bool | None = None,
        winograd: bool = True,
        seed: int | None = None,
    ):
        _check("redistribution", redistribution, _IMPORTANCE)
        _check("growth", growth, _GROWTH)
        _check("pruning", pruning, _PRUNING)
        is_global = growth == "global-momentum"
        if is_global and redistribution != "momentum":
            raise ValueError(
                f"growth='global-momentum' redistributes nothing; leave out redistribution={redistribution!r}"
            )
        if is_global and (per_neuron or flops_budget is not None):
            raise ValueError("growth='global-momentum' has no per_neuron and no flops_budget; leave them out")
        if flops_budget is not None and redistribution != "momentum":
            raise ValueError(f"flops_budget={flops_budget} needs redistribution='momentum', got {redistribution!r}")
        if flops_budget is not None and not 0 < flops_budget <= 1:
            raise ValueError(f"flops_budget={flops_budget} is a FLOP density and must be in (0, 1]")
        grow, collect = _GROWTH[growth]
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=prune_rate_schedule(schedule, prune_rate, total_steps),
            prune=criteria.magnitude,
            grow=grow,
            redistribution=_IMPORTANCE[redistribution],
            redistribution_rule=None if is_global else RULES.get(redistribution, by_importance),
            amount=_PRUNING[pruning],
            growth_scope="global" if is_global else "local",
            collect=collect,
            inherit=inherit_momentum,
            uses_gradient=redistribution == "gradient",
            uses_momentum=_IMPORTANCE[redistribution] is criteria.mean_momentum,
            per_neuron=per_neuron,
            max_density=1.0 if max_density is None else max_density,
            flops_budget=flops_budget,
            needs_flops=flops_budget is not None or redistribution == "momentum-per-flop",
            window=window,
            window_batch=window_batch,
            factored=factored,
            winograd=winograd,
            seed=0 if seed is None else seed,
        )


def _check(argument: str, value: str, known: Mapping[str, Any]) -> None:
    if value not in known:
        raise ValueError(f"{argument}={value!r} is unknown; use one of {', '.join(known)}")
