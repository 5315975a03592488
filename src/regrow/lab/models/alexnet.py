"""AlexNet for 32x32 images, with batch norm and strides in place of pooling (SNIP, Lee et al. 2019, arXiv:1810.02340).

Initialised as torch does, which is what the reference implementation of sparse momentum (arXiv:1907.04840) does.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

__all__ = ["alexnet"]

_CONVOLUTIONS = ((96, 11, 2), (256, 5, 2), (384, 3, 1), (384, 3, 1), (256, 3, 1))
"""Channels, kernel size and padding; all of stride 2. The sizes of the planes are 13, 7, 4, 2 and 1.

The first padding is that of the reference implementation of sparse momentum, to whose errors ours are compared; SNIP
pads to planes of 16, 8, 4, 2 and 1, with the same weights.
"""


def alexnet(hidden: int, num_classes: int = 10, *, in_channels: int = 3, width: float = 1.0) -> nn.Module:
    """AlexNet-s has `hidden` 1024, AlexNet-b 2048: 5.07 and 8.48 million weights; takes (N, in_channels, 32, 32).

    Args:
        hidden: features of the two hidden linear layers.
        width: factor on the channels and on `hidden`.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = in_channels
    for number, (full, kernel, padding) in enumerate(_CONVOLUTIONS, start=1):
        out = round(full * width)
        layers[f"conv{number}"] = nn.Conv2d(channels, out, kernel, stride=2, padding=padding)
        layers[f"bn{number}"] = nn.BatchNorm2d(out)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
        channels = out
    layers["flatten"] = nn.Flatten()
    features = round(hidden * width)
    for number in (1, 2):
        layers[f"fc{number}"] = nn.Linear(channels if number == 1 else features, features)
        layers[f"fc{number}_bn"] = nn.BatchNorm1d(features)
        layers[f"fc{number}_relu"] = nn.ReLU(inplace=True)
    layers["fc3"] = nn.Linear(features, num_classes)
    return nn.Sequential(layers)
