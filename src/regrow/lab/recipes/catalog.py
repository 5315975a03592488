"""The recipes. Each is one function that returns a whole `Recipe`; its name with dashes is the recipe's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from regrow.lab.data import datasets as data
from regrow.lab.data import text
from regrow.lab.errors import unknown

from .options import given
from .recipe import Recipe

__all__ = ["RECIPES", "get_recipe", "recipe"]

RECIPES: dict[str, Callable[[], Recipe]] = {}


def recipe(make: Callable[[], Recipe]) -> Callable[[], Recipe]:
    """Registers a function under its name, `lenet300_mnist` as "lenet300-mnist".

    Args:
        make: returns a whole recipe.
    """
    RECIPES[make.__name__.replace("_", "-")] = make
    return make


def get_recipe(name: str) -> Recipe:
    """The recipe of that name, with its published settings.

    Args:
        name: a key of `RECIPES`.

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
        about="MLP on scikit-learn's digits; seconds, no download",
        model="digits-mlp",
        data=data.digits,
        epochs=40,
        batch_size=32,
        lr=0.1,
        lr_drops=(800, 1300),
        schedule_steps=1_640,
        rescale="auto",
        threads=1,
    )


@recipe
def wide_table() -> Recipe:
    """What the race found best for a sparse network (docs/race.md); no publication behind it. One thread: see above."""
    return Recipe(
        name="wide-table",
        about="MLP on 10,000 inputs of which 20 tell the class; a minute, no download",
        model="table-mlp",
        data=data.wide_table,
        epochs=12,
        batch_size=128,
        lr=0.2,
        lr_schedule="cosine",
        warmup_epochs=1.2,
        lr_drops=(),
        schedule_steps=1,
        weight_decay=5e-3,
        update_every=24,
        dense=("fc3",),
        rescale="auto",
        options=given(prune_rate=0.3, width=64, window=2),
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
        about="LeNet-300-100, published protocol",
        model="lenet-300-100",
    )


@recipe
def lenet300_bn_mnist() -> Recipe:
    """The protocol of lenet300-mnist on the network with which SET and DSR seem to have been published."""
    return _published_mnist(
        name="lenet300-bn-mnist",
        about="LeNet-300-100 with batch norm, published protocol",
        model="lenet-300-100-bn",
    )


@recipe
def lenet5_mnist() -> Recipe:
    return _published_mnist(
        name="lenet5-mnist",
        about="LeNet-5-Caffe, published protocol",
        model="lenet-5-caffe",
        channels_last=True,
    )


@recipe
def wide_mlp() -> Recipe:
    """A network that could not exist dense: 62.5 billion positions between its hidden layers, 8 million weights.

    No publication behind it. As many connections a unit at every width W, with `--density` 32 / (784 + W).
    """
    return Recipe(
        name="wide-mlp",
        about="MLP of two hidden layers of 250,000 units; --set width=N",
        model="wide-mlp",
        default_density=1.28e-4,
        dense=("fc3",),
        rescale=True,
        data=data.mnist,
        epochs=3,
        batch_size=100,
        lr=0.3,
        lr_drops=(1_080,),
        schedule_steps=1_620,
        options=given(distribution="er", prune_rate=0.3, redistribution="none", width=250_000, window=2),
    )


CIFAR10_MODELS = {
    "alexnet-s": "AlexNet-s, published protocol",
    "alexnet-b": "AlexNet-b, published protocol",
    "vgg16-c": "VGG16-C (1x1 convolutions), published protocol",
    "vgg16-d": "VGG16-D, published protocol",
    "vgg16-like": "VGG16-like (one hidden linear layer), published protocol",
    "vgg16-d-half": "VGG16-D of half the width, for experiments",
    "wrn-16-8": "WRN-16-8, published protocol",
    "wrn-16-10": "WRN-16-10, published protocol",
    "wrn-22-8": "WRN-22-8, published protocol",
    "wrn-28-2": "WRN-28-2, published protocol",
    "resnet-50": "ResNet-50, made for larger images; for speed",
}


def _published_cifar10(model: str) -> Recipe:
    """The protocol of the CIFAR-10 experiments of sparse momentum (arXiv:1907.04840, section 4).

    Crops with reflection and flips, a tenth held out, batch 128; the learning rate drops each 30,000 of 88,000 steps.
    Momentum of inactive weights is collected in 10 steps before an update, where the paper has all
    (docs/decisions/0007-recipes-cifar10.md). Freed weights are shared by momentum, the rule of the paper;
    what others win and cost is in docs/decisions/0015-share-rules.md.
    """
    return Recipe(
        name=f"{model}-cifar10",
        about=CIFAR10_MODELS[model],
        model=model,
        data=data.cifar10,
        epochs=250,
        batch_size=128,
        lr=0.1,
        lr_drops=(30_000, 60_000),
        schedule_steps=88_000,
        options=given(window=10),
        channels_last=True,
    )


@recipe
def resnet50_imagenet() -> Recipe:
    """The protocol of the tuned ResNet-50 of sparse momentum (arXiv:1907.04840, section 4, reference implementation).

    One image in a hundred is held out, where the publication has none (docs/decisions/0017-images.md).
    """
    return Recipe(
        name="resnet50-imagenet",
        about="ResNet-50 on ImageNet, published protocol",
        model="resnet-50",
        classes=1000,
        data=partial(data.image_folder, "imagenet", 224, 0.08),
        epochs=100,
        batch_size=256,
        lr=0.1,
        lr_drops=(30, 60, 90),
        schedule_steps=100,
        weight_decay=1e-4,
        warmup_epochs=5,
        label_smoothing=0.1,
        validation_fraction=0.01,
        options=given(prune_rate=0.2, window=10),
        channels_last=True,
    )


@recipe
def resnet50_imagenette() -> Recipe:
    """ResNet-50 on few and small images, to see all of the ImageNet recipe at work; no publication behind it.

    In so few steps the network bears neither a larger learning rate nor weights that enter with their momentum
    (docs/decisions/0012-entering-momentum.md).
    """
    return replace(
        resnet50_imagenet(),
        name="resnet50-imagenette",
        about="ResNet-50 on 3,500 images of ten classes, 64x64; minutes on two cores",
        classes=10,
        data=partial(data.image_folder, "imagenette224", 64, 0.35),
        epochs=20,
        batch_size=32,
        lr=0.01,
        lr_drops=(70, 90),
        warmup_epochs=0.5,
        options=given(inherit_momentum=False, prune_rate=0.2, window=10),
        validation_fraction=0.1,
    )


RECIPES |= {f"{model}-cifar10": partial(_published_cifar10, model) for model in CIFAR10_MODELS}


@recipe
def gpt_shakespeare() -> Recipe:
    """Characters of tiny Shakespeare, after nanoGPT's recipe for it (Karpathy 2022) at a size for two cores.

    AdamW at 1e-3, warm-up and cosine, gradients clipped to norm 1. Embeddings and the last layer, which have 65
    characters, stay dense.
    """
    return Recipe(
        name="gpt-shakespeare",
        about="character GPT on tiny Shakespeare, 4 blocks of 256 features",
        model="gpt-char",
        classes=65,
        data=text.shakespeare,
        epochs=10,
        batch_size=32,
        lr=1e-3,
        lr_schedule="cosine",
        warmup_epochs=0.4,
        lr_drops=(),
        schedule_steps=1,
        optimizer="adamw",
        beta2=0.99,
        momentum=0.9,
        weight_decay=0.1,
        clip_norm=1.0,
        rescale="auto",
        dense=("tokens", "places", "head"),
    )
