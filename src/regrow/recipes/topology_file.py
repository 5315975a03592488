"""Topology files: the active sets of a trained network, small enough to be committed and measured again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

import regrow
from regrow.files import write_atomically
from regrow.report.active_sets import read_active_sets

from .errors import UsageError

__all__ = ["Topology", "load_topology", "save_topology"]


@dataclass(frozen=True)
class Topology:
    """Active sets, and what made them.

    Attributes:
        masks: bool of each weight's shape, by parameter name.
        about: recipe, method, density, share, epochs and whatever else says where it is from.
    """

    masks: dict[str, Tensor]
    about: dict[str, Any]

    @property
    def density(self) -> float:
        """Share of active positions over all sparse weights."""
        return sum(int(mask.sum()) for mask in self.masks.values()) / sum(mask.numel() for mask in self.masks.values())

    @property
    def share(self) -> str | None:
        return self.about.get("share")


def save_topology(file: Path, model: nn.Module, about: dict[str, Any]) -> None:
    """Writes the active sets of a sparse model, whole or not at all: a bit a position, compressed (.npz).

    Args:
        about: plain values that JSON can hold.
    """
    weights = regrow.sparse_weights(model)
    arrays = {}
    for name, weight in weights.items():
        mask = torch.zeros(weight.numel, dtype=torch.bool).index_fill_(0, weight.indices.cpu(), True)
        arrays[f"bits/{name}"] = numpy.packbits(mask.numpy())
        arrays[f"shape/{name}"] = numpy.array(weight.shape)
    with write_atomically(file) as temporary, open(temporary, "wb") as stream:
        numpy.savez_compressed(stream, about=numpy.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]


def load_topology(file: str | Path) -> Topology:
    """The topology in a file of `save_topology`.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    try:
        masks, about = read_active_sets(file)
    except FileNotFoundError:
        raise UsageError(
            f"there is no topology file {file}; regrow train writes topology.npz into its folder"
        ) from None
    except (KeyError, ValueError, OSError) as error:
        raise UsageError(f"{file} is no topology file ({error}); regrow train writes them as topology.npz") from error
    return Topology({name: torch.from_numpy(mask) for name, mask in masks.items()}, about)
