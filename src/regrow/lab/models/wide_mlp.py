"""An MLP whose hidden layers are too wide to exist dense."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

__all__ = ["wide_mlp"]


class Scale(nn.Module):
    """Multiplies by a constant."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, input: Tensor) -> Tensor:
        return input * self.factor

    def extra_repr(self) -> str:
        return f"{self.factor:g}"


def wide_mlp(num_classes: int = 10, width: int = 250_000) -> nn.Module:
    """784-width-width-classes with ReLU; the hidden layers on the meta device until it is said which weights exist.

    The last layer has weights of variance 1, and its outputs are divided by sqrt(width), so that one learning rate
    suits every width (Jacot et al. 2018, arXiv:1806.07572, section 2).

    Args:
        width: units of each of the two hidden layers; takes (N, 1, 28, 28).
    """
    fc3 = nn.Linear(width, num_classes)
    nn.init.normal_(fc3.weight)
    with torch.device("meta"):
        fc1, fc2 = nn.Linear(784, width), nn.Linear(width, width)
    layers = {"flatten": nn.Flatten(), "fc1": fc1, "relu1": nn.ReLU(), "fc2": fc2, "relu2": nn.ReLU(), "fc3": fc3}
    return nn.Sequential(OrderedDict(layers, scale=Scale(width**-0.5)))
