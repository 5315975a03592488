"""Networks under training that can be copied at any step, so that copies go on with other windows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regrow
from regrow import topology
from regrow.lab import models
from regrow.lab.data.datasets import cifar10, mnist
from regrow.lab.data.split import Data, Split
from regrow.lab.recipes.recipe import Recipe, learning_rate

Active = dict[str, Tensor]


def small_conv_net() -> nn.Module:
    """Three convolutions with batch normalisation and a classifier, 94,304 weights; takes (N, 3, 32, 32)."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    body = [*block(3, 32, 2), *block(32, 64, 1), *block(64, 128, 1)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[Path, int, float], Data]]] = {
    "lenet300": (partial(models.build, "lenet-300-100"), mnist),
    "cifar10-conv": (small_conv_net, cifar10),
    "vgg16-d": (partial(models.build, "vgg16-d"), cifar10),
    "vgg16-d-half": (partial(models.build, "vgg16-d-half"), cifar10),
}


@dataclass
class Training:
    """A network under training by the protocol of a recipe."""

    data: Split
    model: nn.Module
    optimizer: torch.optim.Optimizer
    updater: regrow.SparseMomentum
    protocol: Recipe
    total_steps: int

    def step(self, index: Tensor) -> None:
        """One step on the examples of `index`."""
        x, y = self.data.batch(index)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.protocol, self.updater.step, self.total_steps)
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()

    def trained(self, batches: Iterable[Tensor]) -> Training:
        """Itself, after a step on each batch."""
        for index in batches:
            self.step(index)
        return self

    def branch(
        self,
        window: int | str,
        window_batch: int | None = None,
        update_after: int | None = None,
        winograd: bool = True,
    ) -> Training:
        """A copy that goes on with another window; it forgets what has been collected unless that is "all" again."""
        updater_state = self.updater.state_dict()
        if window != "all":
            for missing in updater_state["missing"].values():
                missing |= {"steps": 0, "moments": {}}
        model = copy.deepcopy(self.model)
        twin = made(self.data, model, self.protocol, self.total_steps, window, window_batch, winograd)
        twin.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        twin.updater.load_state_dict(updater_state)
        if update_after is not None:
            twin.updater.expect_update(update_after)
        return twin

    def updated(self) -> tuple[Active, Active]:
        """Updates the topology: the grown positions and the active ones of each layer."""
        before = {name: (w.indices, w.values.abs()) for name, w in regrow.sparse_weights(self.model).items()}
        pruned = {row["name"]: row["pruned"] for row in self.updater.update()}
        active = {name: weight.indices for name, weight in regrow.sparse_weights(self.model).items()}
        grown = {}
        for name, (indices, magnitudes) in before.items():
            kept = torch.ones_like(indices, dtype=torch.bool)
            kept[topology.smallest(magnitudes, pruned[name])] = False
            grown[name] = active[name][~torch.isin(active[name], indices[kept])]
        return grown, active


def made(
    data: Split,
    model: nn.Module,
    protocol: Recipe,
    total_steps: int,
    window: int | str,
    window_batch: int | None = None,
    winograd: bool = True,
) -> Training:
    """A training of a sparse model from its first step."""
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=protocol.lr,
        momentum=protocol.momentum,
        nesterov=protocol.nesterov,
        weight_decay=protocol.weight_decay,
    )
    updater = regrow.SparseMomentum(
        model,
        optimizer,
        total_steps=total_steps,
        update_every=None,
        window=window,
        window_batch=window_batch,
        winograd=winograd,
    )
    return Training(data, model, optimizer, updater, protocol, total_steps)
