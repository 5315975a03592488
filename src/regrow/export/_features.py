"""The features of one activation, and what layers make of those that are constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Call", "Features", "averaged", "normalised"]


@dataclass(frozen=True)
class Features:
    """The features of an activation (N, C, ...).

    Attributes:
        groups: (C,) int64; features of one number go together.
        constant: (C,) float64, the value that a feature has everywhere, whatever the network is given; NaN: none.
    """

    groups: Tensor
    constant: Tensor


@dataclass(frozen=True)
class Call:
    """A layer or batch norm in a network: where it is, and the features that it takes and gives."""

    path: str
    module: Any
    inputs: Features
    outputs: Features

    @property
    def weight(self) -> Tensor:
        """Returns the weights of a layer as (out, in, places of the kernel)."""
        weight = self.module.weight.detach()
        return weight.reshape(*weight.shape[:2], -1)

    @property
    def foldable(self) -> Tensor:
        """(in,) bool: what a layer adds for this input feature is the same everywhere, so its bias can do it.

        Zeros at a border take part in the sum, so there the feature must be 0 itself.
        """
        padding = getattr(self.module, "padding", 0)
        bordered = padding == "same" if isinstance(padding, str) else bool(torch.tensor(padding).any())
        zeros = bordered and self.module.padding_mode == "zeros"
        constant = self.inputs.constant
        return constant == 0 if zeros else ~constant.isnan()

    def folded(self, features: Tensor) -> Tensor:
        """(out,) what a layer adds for `features`, (in,) bool, foldable ones."""
        return self.weight.sum(2) @ self.inputs.constant.masked_fill(~features, 0.0)

    def layer_constant(self) -> Tensor:
        """(out,) what a layer gives where it reads nothing that varies; NaN elsewhere."""
        total = self.folded(self.foldable)
        if self.module.bias is not None:
            total = total + self.module.bias.detach()
        varies = (self.weight.any(2) & ~self.foldable).any(1)
        return total.masked_fill(varies, torch.nan)


def normalised(constant: Tensor, norm: Any) -> Tensor:
    """Returns what a batch norm in evaluation makes of constants."""
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is None:
        return (constant - norm.running_mean) * scale
    return (constant - norm.running_mean) * scale * norm.weight.detach() + norm.bias.detach()


def averaged(constant: Tensor, pool: Any) -> Tensor:
    """Returns what an average pool makes of constants."""
    bordered = bool(torch.tensor(pool.padding).any()) and pool.count_include_pad
    scaled = getattr(pool, "divisor_override", None) is not None
    return torch.where(constant == 0, constant, torch.nan) if bordered or scaled else constant
