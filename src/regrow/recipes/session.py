"""Session: the live objects of a run (network, optimizer, updater, data), made from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric, seed_everything
from torch import Tensor, nn, optim

import regrow
from regrow.flops import flop_density, flops_per_weight

from .methods import Examples, make_network, make_sparse, make_updater, prunable_weights, update_interval
from .randomness import rng_state, set_rng_state
from .settings import Settings
from .split import Data, Split

__all__ = ["Session", "error_percent", "make_session"]


@dataclass
class Session:
    """What training works with. `network` is `model` as Fabric wraps it; parameters are looked up, never kept."""

    settings: Settings
    fabric: Fabric
    model: nn.Module
    network: nn.Module
    optimizer: optim.Optimizer
    updater: Any | None
    data: Data
    total_steps: int
    parameters: int
    prunable: int
    flops: dict[str, float]

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.data, self.settings)

    @property
    def update_every(self) -> int:
        """Steps between topology updates."""
        return update_interval(self.settings, self.total_steps, self.steps_per_epoch)

    @property
    def window_share(self) -> float:
        """Share of a batch from which compressed storage has the gradients of missing weights, in (0, 1]."""
        recipe = self.settings.recipe
        return min(1.0, (recipe.window_batch or recipe.batch_size) / recipe.batch_size)

    @property
    def active(self) -> int:
        """Weights that are trained, of those that could be sparse."""
        return sum(w.active for w in regrow.sparse_weights(self.model).values()) if self.updater else self.prunable

    @property
    def flop_density(self) -> float:
        return flop_density(self.model, self.flops) if self.updater else 1.0

    @property
    def storage(self) -> str:
        kinds = sorted({weight.storage for weight in regrow.sparse_weights(self.model).values()})
        return "+".join(kinds) or "dense"

    def step(self, index: Tensor, moves: Tensor | None = None) -> Tensor:
        """One optimizer step on the training examples of `index`, cropped and flipped by `moves` (see `Split.batch`).

        Returns:
            Their mean loss, detached.
        """
        x, y = self.data.train.batch(index, moves)
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.network(x), y)
        self.fabric.backward(loss)
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values: all that the next step depends on, besides position and settings."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updater": self.updater.state_dict() if self.updater else {},
            "rng": rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores in the order model, optimizer, updater, for each needs what the one before brings."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.updater:
            self.updater.load_state_dict(state["updater"])
        set_rng_state(state["rng"])


def steps_per_epoch(data: Data, settings: Settings) -> int:
    """Batches an epoch; the last one may be smaller, nothing is dropped."""
    return -(-len(data.train) // settings.recipe.batch_size)


def make_session(settings: Settings, root: Path, masks: Mapping[str, Tensor] | None = None) -> Session:
    """Everything a run needs, freshly made: the same settings give the same session, to the bit.

    Args:
        root: where the data sets are, see `data_root`.
        masks: active sets by parameter name to start from, instead of random ones.
    """
    recipe = settings.recipe
    data = recipe.data(root, settings.seed, recipe.validation_fraction)
    if recipe.images is not None:
        data = data._replace(train=data.train.first(recipe.images))
    fabric = Fabric(accelerator=recipe.accelerator, devices=1, precision=recipe.precision)  # type: ignore[arg-type]
    fabric.launch()
    seed_everything(settings.seed, verbose=False)
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    dense = make_network(recipe).to(memory_format=memory_format)
    parameters, prunable = sum(p.numel() for p in dense.parameters()), prunable_weights(dense, recipe.dense)
    model = fabric.to_device(make_sparse(dense, settings, masks, Examples(data.train, settings.seed)))
    optimizer = make_optimizer(model, settings)
    total_steps = recipe.epochs * steps_per_epoch(data, settings)
    updater = make_updater(model, optimizer, settings, total_steps)
    network = fabric.setup_module(model)
    data = data.to(fabric.device, memory_format)
    flops = flops_per_weight(model, data.train.batch(torch.arange(2, device=fabric.device))[0]) if updater else {}
    return Session(settings, fabric, model, network, optimizer, updater, data, total_steps, parameters, prunable, flops)


def make_optimizer(model: nn.Module, settings: Settings) -> optim.Optimizer:
    """SGD; fused, which saves a quarter of a small network's step on a CPU and has the same formula."""
    recipe = settings.recipe
    return optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


@torch.no_grad()
def error_percent(session: Session, split: Split, batch_size: int = 256) -> float:
    """The share of a split that the network gets wrong, in percent, in eval mode."""
    session.network.eval()
    wrong = torch.stack([(session.network(x).argmax(1) != y).sum() for x, y in split.batches(batch_size)]).sum()
    session.network.train()
    return 100 * int(wrong) / len(split)
