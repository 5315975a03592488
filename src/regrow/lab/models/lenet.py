"""The small networks: an MLP for the digits, LeNet-300-100 and LeNet-5; plain torch, initialised as torch does."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

__all__ = ["digits_mlp", "lenet_5_caffe", "lenet_300_100", "lenet_300_100_bn", "table_mlp"]


def _mlp(inputs: int, hidden: tuple[int, int], outputs: int) -> nn.Sequential:
    first, second = hidden
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(inputs, first),
            relu1=nn.ReLU(),
            fc2=nn.Linear(first, second),
            relu2=nn.ReLU(),
            fc3=nn.Linear(second, outputs),
        )
    )


def digits_mlp(num_classes: int = 10) -> nn.Module:
    """64-300-100-10 for the 8x8 digits; takes (N, 1, 8, 8)."""
    return _mlp(64, (300, 100), num_classes)


def table_mlp(num_classes: int = 10, width: int = 64) -> nn.Module:
    """10000-width-width-classes for the wide table; takes (N, 10000)."""
    return _mlp(10_000, (width, width), num_classes)


def lenet_300_100(num_classes: int = 10) -> nn.Module:
    """LeNet-300-100 (LeCun et al. 1998) with ReLU; 266,200 weights and 410 biases; takes (N, 1, 28, 28)."""
    return _mlp(784, (300, 100), num_classes)


def lenet_300_100_bn(num_classes: int = 10) -> nn.Module:
    """LeNet-300-100 with batch norm after every linear layer, the last one too, in place of biases; (N, 1, 28, 28).

    So the code of Mostafa & Wang 2019 (dynamic sparse reparameterization, arXiv:1902.05967) has it.
    """
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(784, 300, bias=False),
            bn1=nn.BatchNorm1d(300),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100, bias=False),
            bn2=nn.BatchNorm1d(100),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, num_classes, bias=False),
            bn3=nn.BatchNorm1d(num_classes),
        )
    )


def lenet_5_caffe(num_classes: int = 10) -> nn.Module:
    """LeNet-5 in Caffe's sizes, no padding; 430,500 weights and 580 biases; takes (N, 1, 28, 28).

    ReLU follows the convolutions too, as in the reference implementation of sparse momentum. Caffe's own network has it
    only after fc1, and diverges within 30 steps at the published learning rate of 0.1 with momentum 0.9.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(800, 500),
            relu3=nn.ReLU(),
            fc2=nn.Linear(500, num_classes),
        )
    )
