"""What a checkpoint holds: `regrow summary`, and its network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

import regrow

from .restored import load_network
from .tables import console

__all__ = ["print_checkpoint"]


def print_checkpoint(path: Path) -> None:
    """Prints the layers of a checkpoint's network and where its run stands.

    Args:
        path: a run folder or a checkpoint in one.
    """
    _, model, state = load_network(path)
    stored, position = state["settings"], state["position"]
    text = f"{stored['recipe']}, {stored['method']}, density {stored['density']:g}, seed {stored['seed']}: "
    text += f"{position['epoch']} of {stored['epochs']} epochs, {position['step']} steps, {position['updates']} updates"
    say = console()
    say.print(text, soft_wrap=True)
    say.print(_layers(model, state), markup=False, soft_wrap=True)


def _layers(model: nn.Module, state: dict[str, Any]) -> str:
    if regrow.sparse_weights(model):
        return str(regrow.summary(model))
    names = [f"{name}  {tuple(value.shape)}" for name, value in state["model"].items()]
    return "\n".join(["dense: all weights are active", *names])
