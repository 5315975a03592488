"""VGG16 for 32x32 images, with batch norm in place of dropout (SNIP, Lee et al. 2019, arXiv:1810.02340).

Initialised as torch does, and with ReLU before the batch norm of linear layers, which is what the reference
implementation of sparse momentum (arXiv:1907.04840) does.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

__all__ = ["vgg16"]

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of a block; a pool halves the plane after each."""

_HIDDEN = 512


def vgg16(variant: str, num_classes: int = 10, *, in_channels: int = 3, width: float = 1.0) -> nn.Module:
    """VGG16-C, -D and -like: 10.5, 15.2 and 15.0 million weights; takes (N, in_channels, 32, 32).

    Args:
        variant: "C": the third convolution of a block is 1x1 (without padding, as in SNIP and in the counts it
            publishes); "D": all are 3x3; "like": as D, with one hidden linear layer instead of two.
        width: factor on the channels and on the hidden linear layers.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = in_channels
    for block, (full, convolutions) in enumerate(_BLOCKS, start=1):
        out = round(full * width)
        for number in range(1, convolutions + 1):
            kernel = 1 if variant == "C" and number == 3 else 3
            layers[f"conv{block}_{number}"] = nn.Conv2d(channels, out, kernel, padding=kernel // 2)
            layers[f"bn{block}_{number}"] = nn.BatchNorm2d(out)
            layers[f"relu{block}_{number}"] = nn.ReLU(inplace=True)
            channels = out
        layers[f"pool{block}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    hidden_layers = 1 if variant == "like" else 2
    for number in range(1, hidden_layers + 1):
        features = round(_HIDDEN * width)
        layers[f"fc{number}"] = nn.Linear(channels, features)
        layers[f"fc{number}_relu"] = nn.ReLU(inplace=True)
        layers[f"fc{number}_bn"] = nn.BatchNorm1d(features)
        channels = features
    layers[f"fc{hidden_layers + 1}"] = nn.Linear(channels, num_classes)
    return nn.Sequential(layers)
