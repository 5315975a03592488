"""The description of a run for reports, written while it goes on: what it is, how its weights are spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import regrow
from regrow.lab.cli.command import train_command
from regrow.lab.machine import processor
from regrow.weights.prunable import select

from .session import Session

__all__ = ["describe", "weight_histograms"]

BINS = 41


def describe(session: Session) -> dict[str, Any]:
    """Returns what run.json holds: command, settings, shapes of the weights that could be sparse, versions.

    The command leaves out what belongs to one machine: folders and threads.
    """
    settings = session.settings
    return {
        "command": train_command(settings),
        "model": settings.recipe.model,
        "settings": settings.stored(),
        "total_steps": session.total_steps,
        "storage": session.storage,
        "layers": {name: list(shape) for name, (shape, _) in _weights(session).items()},
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "torch": str(torch.__version__),
        "regrow": regrow.__version__,
    }


def weight_histograms(session: Session, epoch: int) -> list[dict[str, Any]]:
    """A row for each weight that could be sparse: how its active values are spread.

    `counts` are those of 41 bins of the same width from -`limit` to `limit`, the largest absolute value; they sum to
    the number of active weights, as long as all of them are finite.

    Example:
        >>> weight_histograms(session, 1)[0]
        {'epoch': 1, 'name': 'fc1.weight', 'limit': 0.125, 'counts': [3, 11, ...]}
    """
    return [{"epoch": epoch, "name": name, **_histogram(values)} for name, (_, values) in _weights(session).items()]


def _weights(session: Session) -> Mapping[str, tuple[torch.Size, Tensor]]:
    """Dense shape and active values of each weight that could be sparse, by name."""
    sparse = regrow.sparse_weights(session.model)
    if sparse:
        return {name: (weight.shape, weight.values) for name, weight in sparse.items()}
    places = select(session.model, session.settings.recipe.dense)
    return {name: (place.parameter.shape, place.parameter.detach()) for name, place in places.items()}


def _histogram(values: Tensor) -> dict[str, Any]:
    values = values[values.isfinite()].double().flatten().cpu()
    limit = max(float(values.abs().max()) if values.numel() else 0.0, 1e-12)
    counts = torch.histc(values, BINS, -limit, limit)
    return {"limit": limit, "counts": [int(count) for count in counts]}
