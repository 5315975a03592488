"""The network of a checkpoint, as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from regrow.lab.errors import UsageError
from regrow.lab.recipes.methods import make_network, make_sparse
from regrow.lab.recipes.settings import Settings, settings_of
from regrow.weights import follow_state

from .folder import CHECKPOINT, load_checkpoint

__all__ = ["load_network"]


def load_network(path: Path) -> tuple[Settings, nn.Module, dict[str, Any]]:
    """The settings of a run, its network on the CPU, and all that its checkpoint holds.

    Args:
        path: a run folder or a checkpoint in one.

    Raises:
        UsageError: there is no checkpoint. RunError: the file is something else.
    """
    file = path / CHECKPOINT if path.is_dir() else path
    if not file.exists():
        raise UsageError(f"there is no checkpoint {file}; name a folder from regrow train")
    state = load_checkpoint(file)
    settings = settings_of(state["settings"])
    model = make_sparse(make_network(settings.recipe), settings)
    follow_state(model, state["model"])
    model.load_state_dict(state["model"])
    return settings, model, state
