"""`regrow summary`: what a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import regrow

from .errors import RunError
from .folder import CHECKPOINT, load_checkpoint
from .methods import make_network, make_sparse
from .settings import of_checkpoint
from .tables import console

__all__ = ["print_checkpoint"]


def print_checkpoint(path: Path) -> None:
    """Prints the layers of a checkpoint's network and where its run stands.

    Args:
        path: a run folder or a checkpoint in one.
    """
    file = path / CHECKPOINT if path.is_dir() else path
    if not file.exists():
        raise RunError(f"there is no checkpoint {file}; name a folder that regrow train has made")
    state = load_checkpoint(file)
    stored, position = state["settings"], state["position"]
    text = f"{stored['recipe']}, {stored['method']}, density {stored['density']:g}, seed {stored['seed']}: "
    text += f"{position['epoch']} of {stored['epochs']} epochs, {position['step']} steps, {position['updates']} updates"
    say = console()
    say.print(text, soft_wrap=True)
    say.print(_layers(state), markup=False, soft_wrap=True)


def _layers(state: dict[str, Any]) -> str:
    stored = state["settings"]
    if stored["method"] == "dense":
        names = [f"{name}  {tuple(value.shape)}" for name, value in state["model"].items()]
        return "\n".join(["dense: all weights are active", *names])
    settings = of_checkpoint(stored)
    model = make_sparse(make_network(settings.recipe), settings)
    model.load_state_dict(state["model"])
    return str(regrow.summary(model))
