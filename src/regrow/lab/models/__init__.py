"""The networks of the recipes: plain torch modules that know nothing of sparsity.

Example:
    >>> from regrow.lab import models
    >>> model = models.build("vgg16-d")
    >>> sum(p.numel() for p in model.parameters() if p.dim() > 1)
    15239872
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from regrow.lab.errors import RunError, unknown

from .alexnet import alexnet
from .gpt import GPT
from .lenet import digits_mlp, lenet_5_caffe, lenet_300_100, lenet_300_100_bn, table_mlp
from .vgg import vgg16
from .wide_mlp import wide_mlp
from .wide_resnet import WideResNet

__all__ = ["GPT", "MODELS", "WideResNet", "build", "example_input"]


def _resnet50(num_classes: int = 10) -> nn.Module:
    """ResNet-50 of torchvision; takes (N, 3, H, W), 224 on ImageNet.

    Initialised as it does (He et al. 2015), with the last batch norm of each block starting at 0 (Goyal et al. 2017,
    section 5.1).
    """
    try:
        from torchvision.models import resnet50
    except ImportError as error:
        raise RunError(f"resnet-50 comes from torchvision ({error}); pip install torchvision") from error
    return resnet50(weights=None, num_classes=num_classes, zero_init_residual=True)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "digits-mlp": digits_mlp,
    "lenet-300-100": lenet_300_100,
    "lenet-300-100-bn": lenet_300_100_bn,
    "lenet-5-caffe": lenet_5_caffe,
    "wide-mlp": wide_mlp,
    "table-mlp": table_mlp,
    "alexnet-s": partial(alexnet, 1024),
    "alexnet-b": partial(alexnet, 2048),
    "vgg16-c": partial(vgg16, "C"),
    "vgg16-d": partial(vgg16, "D"),
    "vgg16-like": partial(vgg16, "like"),
    "vgg16-d-half": partial(vgg16, "D", width=0.5),
    "wrn-16-8": partial(WideResNet, 16, 8),
    "wrn-16-10": partial(WideResNet, 16, 10),
    "wrn-22-8": partial(WideResNet, 22, 8),
    "wrn-28-2": partial(WideResNet, 28, 2),
    "resnet-50": _resnet50,
    "gpt-char": GPT,
}


_SHAPES = {
    "digits-mlp": (1, 8, 8),
    "lenet-300-100": (1, 28, 28),
    "lenet-300-100-bn": (1, 28, 28),
    "lenet-5-caffe": (1, 28, 28),
    "wide-mlp": (1, 28, 28),
    "table-mlp": (10_000,),
}
"""Shape of one input; the other networks take CIFAR-10 images."""


def example_input(name: str, batch: int = 2) -> Tensor:
    """A batch of noise, the same every time, such as a network takes: (batch, C, H, W), (batch, F) or (batch, T) int64.

    Example:
        >>> example_input("lenet-5-caffe").shape
        torch.Size([2, 1, 28, 28])
    """
    generator = torch.Generator().manual_seed(0)
    if name == "gpt-char":
        return torch.randint(10, (batch, 128), generator=generator)
    return torch.randn(batch, *_SHAPES.get(name, (3, 32, 32)), generator=generator)


def build(name: str, num_classes: int = 10, **options: Any) -> nn.Module:
    """A freshly initialised network, drawn from torch's global generator.

    Args:
        num_classes: outputs of the network.
        name: a key of `MODELS`.
        options: options of the network: `in_channels` and `width` (a factor on all channels and hidden features) for
            AlexNet, VGG16 and the wide residual networks, `dropout` for the latter; for `GPT` its arguments; `width`
            (hidden units) for table-mlp and for wide-mlp, which is on the meta device until it becomes sparse.

    Raises:
        UsageError: there is no such network. TypeError: it has no such option.

    Example:
        >>> build("wrn-28-2", dropout=0.0)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name](num_classes=num_classes, **options)
