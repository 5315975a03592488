"""Session: the live objects of a run (network, optimizer, updater, data), made from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn, optim

import regrow
from regrow.flops import flop_density, flops_per_weight
from regrow.lab.data.reading import Reading
from regrow.lab.data.split import AnySplit, Data
from regrow.lab.errors import RunError
from regrow.lab.fabric import Fabric, seed_everything
from regrow.lab.recipes.methods import (
    Examples,
    make_network,
    make_sparse,
    make_updater,
    prunable_weights,
    update_interval,
)
from regrow.lab.recipes.optimizer import make_optimizer
from regrow.lab.recipes.settings import Settings, wrong_values

from .loss import mean_loss
from .randomness import generator, rng_state, set_rng_state
from .ranks import Ranks, launch

__all__ = ["Evaluation", "Session", "evaluate", "make_session"]


@dataclass
class Session:
    """The objects of a training. `network` is `model` as Fabric wraps it; parameters are looked up, never kept."""

    settings: Settings
    fabric: Fabric
    ranks: Ranks
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
        """Share of a batch from which compressed storage has the gradients of inactive weights, in (0, 1]."""
        batch = self.settings.recipe.batch_size
        return min(1.0, (self.settings.recipe.option("window_batch") or batch) / batch)

    @property
    def active(self) -> int:
        """Weights that are trained, of those that could be sparse."""
        return sum(w.active for w in regrow.sparse_weights(self.model).values()) if self.updater else self.prunable

    @property
    def sparse_shapes(self) -> dict[str, list[int]]:
        """The dense shape of each sparse weight, by its name."""
        return {name: list(weight.shape) for name, weight in regrow.sparse_weights(self.model).items()}

    @property
    def flop_density(self) -> float:
        return flop_density(self.model, self.flops) if self.updater else 1.0

    @property
    def storage(self) -> str:
        kinds = sorted({weight.storage for weight in regrow.sparse_weights(self.model).values()})
        return "+".join(kinds) or "dense"

    def step(self, index: Tensor, moves: Tensor | None = None) -> Tensor:
        """`learn` on the training examples of `index`, augmented by `moves` (`AnySplit.batch`); each rank its part."""
        share = self.ranks.share(len(index))
        return self.learn(*self.data.train.batch(*self.ranks.part(index, moves)), share)

    def learn(self, x: Tensor, y: Tensor, share: float = 1.0) -> Tensor:
        """One optimizer step on a batch, or on this rank's part of one, of which the loss counts as `share`.

        Returns:
            Its mean loss times `share`, detached: of several ranks, a number of which that is the mean over ranks.
        """
        self.optimizer.zero_grad()
        recipe = self.settings.recipe
        loss = mean_loss(self.network(x), y, recipe.label_smoothing)
        loss = loss if share == 1 else loss * share
        self.fabric.backward(loss)
        if recipe.clip_norm is not None:
            self.fabric.clip_gradients(self.network, self.optimizer, max_norm=recipe.clip_norm)
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values: all that the next step depends on, besides position and settings; for rank 0.

        Model and optimizer are the same on all ranks; what the others have of their own is in `ranks`.
        """
        own = {"updater": self.updater.state_dict() if self.updater else {}, "rng": rng_state()}
        others = self.ranks.gather(own)[1:]
        same = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {"sparse": self.sparse_shapes, **same, **own, "ranks": others}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores in the order model, optimizer, updater, because each needs the one before."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        own = state if self.ranks.first else state["ranks"][self.ranks.rank - 1]
        if self.updater:
            self.updater.load_state_dict(own["updater"])
        set_rng_state(own["rng"])


def steps_per_epoch(data: Data, settings: Settings) -> int:
    """Batches an epoch; the last one may be smaller, nothing is dropped."""
    return -(-len(data.train) // settings.recipe.batch_size)


def make_session(
    settings: Settings,
    root: Path,
    masks: Mapping[str, Tensor] | None = None,
    fabric: Fabric | None = None,
    reading: Reading | None = None,
) -> Session:
    """Everything a run needs, freshly made: the same settings give the same session, to the bit.

    Args:
        root: folder of the data sets, see `data_root`.
        masks: active sets by parameter name to start from, instead of random ones.
        fabric: result of `launch`; None: this process only.
        reading: of data sets that are files; default as `Reading` has it.

    Raises:
        RunError: the data set is missing, or does not fit the recipe.
        UsageError: a setting has a value that cannot be served.
    """
    recipe = settings.recipe
    data = recipe.data(root, settings.seed, recipe.validation_fraction).reading(reading or Reading())
    if (found := int(data.train.y.max()) + 1) > recipe.classes:
        raise RunError(
            f"the data set has {found} classes, but {recipe.name} needs {recipe.classes}; name another with --data-dir"
        )
    if recipe.images is not None:
        data = data._replace(train=data.train.first(recipe.images))
    fabric = fabric or launch(recipe)
    ranks = Ranks(fabric)
    seed_everything(settings.seed, verbose=False)
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    dense = make_network(recipe).to(memory_format=memory_format)
    parameters, prunable = sum(p.numel() for p in dense.parameters()), prunable_weights(dense, recipe.dense)
    total_steps = recipe.epochs * steps_per_epoch(data, settings)
    with wrong_values():
        model = fabric.to_device(make_sparse(dense, settings, masks, Examples(data.train, settings.seed)))
        optimizer = make_optimizer(model, recipe)
        updater = make_updater(model, optimizer, settings, total_steps)
    network = fabric.setup_module(model)
    data = data.to(fabric.device, memory_format)
    two = torch.arange(2, device=fabric.device) % len(data.train)
    flops = flops_per_weight(model, data.train.batch(two)[0]) if updater else {}
    if not ranks.first:  # rank 0 draws what a run in one process does
        torch.manual_seed(generator(settings.seed, "rank", ranks.rank).initial_seed())
    return Session(
        settings, fabric, ranks, model, network, optimizer, updater, data, total_steps, parameters, prunable, flops
    )


class Evaluation(NamedTuple):
    """The result on a split: labels that the network gets wrong, in percent, and the mean loss, in nats."""

    error: float
    loss: float


@torch.no_grad()
def evaluate(session: Session, split: AnySplit, batch_size: int = 256) -> Evaluation:
    """Evaluates all examples of a split in eval mode, each rank its batches; skipped files do not count."""
    ranks, model = session.ranks, session.model
    ranks.same_statistics(model)
    model.eval()
    wrong, labels = torch.zeros(2, dtype=torch.int64, device=session.fabric.device)
    loss = torch.zeros((), dtype=torch.float64, device=session.fabric.device)
    with session.fabric.autocast():  # not through the wrapper, which has ranks wait for each other in each batch
        for x, y in split.batches(batch_size, first=ranks.rank, every=ranks.number):
            outputs = model(x)
            wrong += (outputs.argmax(-1) != y).sum()
            labels += y.numel()
            loss += mean_loss(outputs, y).double() * y.numel()
    model.train()
    number = ranks.sum(labels)
    return Evaluation(100 * ranks.sum(wrong) / number, ranks.mean(loss) * ranks.number / number)
