"""What a checkpoint holds: `regrow summary`, and its network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import regrow

from . import models
from .errors import RunError
from .folder import CHECKPOINT, load_checkpoint
from .methods import make_sparse
from .settings import Settings
from .tables import console

__all__ = ["load_network", "print_checkpoint", "read_checkpoint"]


def print_checkpoint(path: Path) -> None:
    """Prints the layers of a checkpoint's network and where its run stands.

    Args:
        path: a run folder or a checkpoint in one.
    """
    state = read_checkpoint(path)
    stored, position = state["settings"], state["position"]
    text = f"{stored['recipe']}, {stored['method']}, density {stored['density']:g}, seed {stored['seed']}: "
    text += f"{position['epoch']} of {stored['epochs']} epochs, {position['step']} steps, {position['updates']} updates"
    say = console()
    say.print(text, soft_wrap=True)
    say.print(_layers(state), markup=False, soft_wrap=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, of a run folder or in a file. Raises RunError."""
    file = path / CHECKPOINT if path.is_dir() else path
    if not file.exists():
        raise RunError(f"there is no checkpoint {file}; name a folder that regrow train has made")
    return load_checkpoint(file)


def load_network(state: Mapping[str, Any]) -> nn.Module:
    """The network of a checkpoint, on the CPU."""
    settings = Settings.from_dict(state["settings"])
    model = make_sparse(models.build(settings.recipe.model, settings.recipe.classes), settings)
    model.load_state_dict(state["model"])
    return model


def _layers(state: dict[str, Any]) -> str:
    if state["settings"]["method"] == "dense":
        names = [f"{name}  {tuple(value.shape)}" for name, value in state["model"].items()]
        return "\n".join(["dense: all weights are active", *names])
    return str(regrow.summary(load_network(state)))
