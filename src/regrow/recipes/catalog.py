"""The recipes. Each is one function that returns a whole `Recipe`; its name with dashes is the recipe's name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from . import data
from .config import Recipe
from .errors import unknown

__all__ = ["RECIPES", "get_recipe", "recipe"]

RECIPES: dict[str, Callable[[], Recipe]] = {}


def recipe(make: Callable[[], Recipe]) -> Callable[[], Recipe]:
    """Registers a function under its name, `lenet300_mnist` as "lenet300-mnist"."""
    RECIPES[make.__name__.replace("_", "-")] = make
    return make


def get_recipe(name: str) -> Recipe:
    """The recipe of that name, with its published settings.

    Example:
        >>> get_recipe("lenet300-mnist").epochs
        100
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()


@recipe
def digits_mlp() -> Recipe:
    """Small enough for a first look and for tests; no publication behind it.

    One thread: two that wait for each other in layers this small made a busy 2-core machine 25 times slower.
    """
    return Recipe(
        name="digits-mlp",
        about="MLP 64-300-100-10; scikit-learn's 1,797 digits; seconds, no download",
        model="digits-mlp",
        data=data.digits,
        epochs=40,
        batch_size=32,
        lr=0.1,
        lr_drops=(800, 1300),
        schedule_steps=1_640,
        threads=1,
    )


def _published_mnist(**of_network: Any) -> Recipe:
    """The protocol of the MNIST experiments of sparse momentum (arXiv:1907.04840, reference implementation)."""
    return Recipe(
        data=data.mnist,
        epochs=100,
        batch_size=100,
        lr=0.1,
        lr_drops=(25_000, 50_000),
        schedule_steps=54_000,
        **of_network,
    )


@recipe
def lenet300_mnist() -> Recipe:
    return _published_mnist(
        name="lenet300-mnist",
        about="LeNet-300-100; MNIST, published protocol",
        model="lenet-300-100",
    )


@recipe
def lenet5_mnist() -> Recipe:
    return _published_mnist(
        name="lenet5-mnist",
        about="LeNet-5-Caffe; MNIST, published protocol",
        model="lenet-5-caffe",
        channels_last=True,
    )


CIFAR10_MODELS = {
    "alexnet-s": "AlexNet-s",
    "alexnet-b": "AlexNet-b",
    "vgg16-c": "VGG16-C, with 1x1 convolutions",
    "vgg16-d": "VGG16-D",
    "vgg16-like": "VGG16-like, with one hidden linear layer",
    "vgg16-d-half": "VGG16-D of half the width, for experiments",
    "wrn-16-8": "WRN-16-8",
    "wrn-16-10": "WRN-16-10",
    "wrn-22-8": "WRN-22-8",
    "wrn-28-2": "WRN-28-2",
    "resnet-50": "ResNet-50, which is made for larger images",
}


def _published_cifar10(model: str) -> Recipe:
    """The protocol of the CIFAR-10 experiments of sparse momentum (arXiv:1907.04840, section 4).

    Crops with reflection and flips, a tenth held out, batch 128; the learning rate drops each 30,000 of 88,000 steps.
    """
    return Recipe(
        name=f"{model}-cifar10",
        about=f"{CIFAR10_MODELS[model]}; CIFAR-10, published protocol",
        model=model,
        data=data.cifar10,
        epochs=250,
        batch_size=128,
        lr=0.1,
        lr_drops=(30_000, 60_000),
        schedule_steps=88_000,
        channels_last=True,
    )


RECIPES |= {f"{model}-cifar10": partial(_published_cifar10, model) for model in CIFAR10_MODELS}
