"""Runs of a blink, made to be killed: few steps, updates within the epochs and at their ends, a checkpoint an epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regrow.lab import Recipe, Settings, make_settings, models
from regrow.lab.data.split import Data, Split
from regrow.lab.recipes.options import given

EPOCHS, STEPS = 5, 6
"""Of each run; steps are those of an epoch."""

EXAMPLES = "examples.pt"

Strike = Callable[[Tensor], Tensor]


def write_examples(root: Path) -> None:
    """A data set in a file: 150 images of 8x8 whose brightest channel is their class."""
    random = torch.Generator().manual_seed(0)
    y = torch.randint(3, (150,), generator=random)
    x = torch.randint(64, (150, 3, 8, 8), generator=random, dtype=torch.uint8)
    x[torch.arange(150), y] += 128
    torch.save({"x": x, "y": y}, root / EXAMPLES)


@dataclass(frozen=True)
class Stricken(Split):
    """Examples whose batches go through `strike`, which can spoil them or fail."""

    strike: Strike = torch.clone

    def batch(self, index: Tensor, moves: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, y = super().batch(index, moves)
        return self.strike(x), y


def read_examples(root: Path, seed: int, validation_fraction: float, strike: Strike = torch.clone) -> Data:
    """The file's examples; training batches are cropped, flipped and stricken."""
    stored = torch.load(root / EXAMPLES, weights_only=True)
    mean, std = torch.full((3, 1, 1), 96.0), torch.full((3, 1, 1), 64.0)
    train, *others = (
        Split(stored["x"][part], stored["y"][part], mean, std) for part in (slice(90), slice(90, 120), slice(120, 150))
    )
    return Data(Stricken(train.x, train.y, mean, std, augmented=True, strike=strike), *others)


def _mlp(num_classes: int) -> nn.Module:
    hidden = (nn.Linear(192, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU())
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(16, num_classes))


models.MODELS["survival-mlp"] = _mlp
models.MODELS["survival-wrn"] = partial(models.WideResNet, 10, 1, width=0.25)

_RECIPE = Recipe(
    name="survival",
    about="for tests",
    model="survival-mlp",
    data=read_examples,
    epochs=EPOCHS,
    batch_size=15,
    lr=0.05,
    lr_drops=(20,),
    schedule_steps=EPOCHS * STEPS,
    update_every=4,
    options=given(window=3),
)


def _settings(model: str = "survival-mlp", *overrides: str, **settings: Any) -> Settings:
    return make_settings(replace(_RECIPE, model=model), overrides=overrides, **{"density": 0.2, **settings})


VARIANTS = {
    "compressed": _settings(),
    "masked": _settings("survival-mlp", "update_every=6", "window=all", storage="masked"),
    "rigl": _settings(method="rigl"),
    "dns": _settings(method="dns"),
    "convolutions": _settings("survival-wrn", "channels_last=true"),
    "lottery": _settings("survival-mlp", "epochs=4", "rewind_epochs=1", method="lottery", density=0.7),
}
"""What is trained: both storages, shadow weights, batch norm with dropout, and trainings in several rounds."""


def stricken(settings: Settings, strike: Strike) -> Settings:
    """The same run with a data set on which something falls."""
    return replace(settings, recipe=replace(settings.recipe, data=partial(read_examples, strike=strike)))
