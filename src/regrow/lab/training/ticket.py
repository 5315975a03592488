"""A lottery ticket: active sets, and the weights that they go back to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import regrow
from regrow.weights.storage import STORAGES

__all__ = ["REWIND", "Ticket", "rewind"]

REWIND = "rewind.pt"
"""The file in a dense round's folder that holds the weights after `rewind_epochs`."""


@dataclass(frozen=True)
class Ticket:
    """The start of a round of lottery tickets.

    Attributes:
        masks: active sets by parameter name; None: all weights.
        values: state dict of the dense network as it was after `epoch` epochs; None: as it is initialised.
        epoch: the epoch with which training continues.
    """

    masks: dict[str, Tensor] | None = None
    values: Mapping[str, Tensor] | None = None
    epoch: int = 0


@torch.no_grad()
def rewind(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Gives a sparse model the weights of a masked one with all of them active, in its own active positions."""
    sparse = regrow.sparse_weights(model)
    for name, weight in sparse.items():
        weight.write(values[name].to(weight.parameter.device).flatten()[weight.indices])
    stored = {key for name in sparse for kind in STORAGES.values() for key in (name, *kind.state_keys(name))}
    others = {name: value for name, value in values.items() if name not in stored}
    model.load_state_dict(others, strict=False)
