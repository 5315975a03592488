"""Class specialisation of channels: how evenly what a network computes serves the classes.

The analysis of dense and sparse features of Dettmers & Zettlemoyer 2019 (arXiv:1907.04840): the activation of a channel
is shared out among the classes, and the largest share is the channel's specialisation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

from regrow.io.atomic import write_atomically
from regrow.lab.data.datasets import data_root
from regrow.lab.data.split import AnySplit, Data
from regrow.lab.errors import UsageError
from regrow.lab.report.leaderboard import percent
from regrow.lab.training.restored import load_network

__all__ = ["activation_shares", "analyse", "class_activations", "summary_lines", "write_features"]

BATCH = 250


def analyse(paths: Sequence[Path], data_dir: Path | None, split: str, images: int | None) -> list[dict[str, Any]]:
    """The class specialisation of the network of each checkpoint.

    Args:
        paths: run folders or checkpoints.
        split: train, validation or test.
        images: at most so many of it.

    Returns:
        For each network its label (method and density; the path too where two have the same) and its layers: name,
        `shares` (a list over channels of the shares of the classes, rounded to four digits), `specialisation` (the
        largest of each), and how many channels are silent.

    Raises:
        UsageError: no such split, or a network without nn.ReLU. RunError: no such checkpoint, or no data.
    """
    if split not in Data._fields:
        raise UsageError(f"there is no split {split!r}; use --split {', '.join(Data._fields)}")
    networks = [_network(path, data_dir, split, images) for path in paths]
    labels = [network["label"] for network in networks]
    for network, path in zip(networks, paths, strict=True):
        if labels.count(network["label"]) > 1:
            network["label"] += f", {path}"
    return networks


def _network(path: Path, data_dir: Path | None, split: str, images: int | None) -> dict[str, Any]:
    settings, model, _ = load_network(path)
    recipe = settings.recipe
    data = recipe.data(data_root(data_dir), settings.seed, recipe.validation_fraction)
    chosen: AnySplit = getattr(data, split)
    chosen = chosen if images is None else chosen.first(min(images, len(chosen)))
    method = "dense" if settings.method == "dense" else f"{settings.method} {percent(settings.density)}"
    activations = class_activations(model, chosen, method)
    if not activations:
        raise UsageError(f"{recipe.model} has no nn.ReLU, whose outputs are measured; name another checkpoint")
    return {
        "label": method,
        "seed": settings.seed,
        "recipe": recipe.name,
        "split": split,
        "examples": len(chosen),
        "classes": len(next(iter(activations.values()))),
        "layers": [_layer(name, means) for name, means in activations.items()],
    }


def _layer(name: str, means: Tensor) -> dict[str, Any]:
    shares = activation_shares(means)
    rounded = [[round(share, 4) for share in channel] for channel in shares.tolist()]
    silent = means.shape[1] - len(shares)
    return {"name": name, "channels": means.shape[1], "silent": silent} | {
        "specialisation": [max(channel) for channel in rounded],
        "shares": rounded,
    }


def activation_shares(means: Tensor) -> Tensor:
    """The share of each class in a channel's activation; channels that are silent for all classes are left out.

    Args:
        means: mean absolute activation, (classes, channels).

    Returns:
        (channels that are not silent, classes); each row sums to 1.

    Example:
        >>> activation_shares(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        tensor([[0.2500, 0.7500]])
    """
    total = means.sum(0)
    return (means[:, total > 0] / total[total > 0]).T


@torch.no_grad()
def class_activations(model: nn.Module, split: AnySplit, about: str = "") -> dict[str, Tensor]:
    """Mean absolute output of every nn.ReLU by class and channel, float64, (classes, channels), in eval mode.

    The mean is over the images of a class and the positions of a channel, so classes of different size count alike.
    A module that is called several times has an entry for each call.
    """
    classes = int(split.y.max()) + 1
    images = torch.bincount(split.y, minlength=classes).clamp(min=1)
    sums: dict[str, Tensor] = {}
    model.eval()
    with _listening(model) as heard:
        batches = track(split.batches(BATCH), about, total=-(-len(split) // BATCH))
        for x, y in batches:
            heard.clear()
            model(x)
            for name, means in heard.items():
                if name not in sums:
                    sums[name] = means.new_zeros(classes, means.shape[1])
                sums[name].index_add_(0, y, means)
    return {name: total / images[:, None] for name, total in sums.items()}


@contextmanager
def _listening(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Mean absolute output of each nn.ReLU by image and channel, (N, channels), in the current forward pass."""
    heard: dict[str, Tensor] = {}

    def listen(name: str, output: Tensor) -> None:
        calls = sum(key.partition(" #")[0] == name for key in heard)
        activity = output.abs().double()
        heard[f"{name} #{calls + 1}" if calls else name] = (
            activity.flatten(2).mean(2) if activity.dim() > 2 else activity
        )

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: listen(name, output))
        for name, module in model.named_modules()
        if isinstance(module, nn.ReLU)
    ]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def write_features(file: Path, networks: Sequence[Mapping[str, Any]], command: str) -> None:
    """Writes what `analyse` found, whole or not at all, for `regrow report`."""
    with write_atomically(file) as temporary:
        temporary.write_text(json.dumps({"command": command, "networks": list(networks)}) + "\n")


def summary_lines(networks: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each network: the mean specialisation of its channels."""
    lines = []
    for network in networks:
        values = [value for layer in network["layers"] for value in layer["specialisation"]]
        mean = sum(values) / max(len(values), 1)
        silent = sum(layer["silent"] for layer in network["layers"])
        lines.append(f"{network['label']}: mean specialisation {mean:.3f}, {len(values)} channels, {silent} silent")
    return lines
