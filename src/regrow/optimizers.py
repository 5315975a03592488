"""What the updaters need to know of torch optimizers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .weights import SparseWeight, sparse_weights

__all__ = ["group_of", "innermost", "trained_weights", "was_skipped"]


def innermost(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside wrappers such as Accelerate's or Fabric's."""
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    return optimizer


def trained_weights(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, SparseWeight]:
    """The sparse weights of the model, all of which the optimizer must hold.

    Raises:
        ValueError: the model is not sparse, or the optimizer lacks one of its sparse weights.
    """
    weights = sparse_weights(model)
    if not weights:
        raise ValueError("the model has no sparse weights; call model = regrow.sparsify(model, density) first")
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    absent = [name for name, weight in weights.items() if id(weight.parameter) not in held]
    if absent:
        raise ValueError(
            f"the optimizer does not hold {', '.join(absent)}; make the optimizer after sparsify, from the parameters "
            "of the model that sparsify returned, or leave those layers dense with sparsify(..., dense=[...])"
        )
    return weights


def group_of(optimizer: torch.optim.Optimizer, weight: SparseWeight) -> dict[str, Any]:
    """The parameter group that trains a weight."""
    parameter = weight.parameter
    for group in optimizer.param_groups:
        if any(held is parameter for held in group["params"]):
            return group
    raise ValueError(f"the optimizer no longer holds {weight.name}; make a new updater for a new optimizer")


def was_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the step did nothing: fused optimizers run their hooks even where GradScaler found infinities."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)
