"""Topology files: the active sets of a trained network, small enough to be committed and measured again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy
import torch
from torch import Tensor, nn

import regrow
from regrow.io.atomic import write_atomically
from regrow.lab.errors import UsageError
from regrow.lab.report.active_sets import read_active_sets
from regrow.topology.lazy import LARGEST_TENSOR
from regrow.weights.prunable import prunable

__all__ = ["Topology", "left_dense", "load_topology", "save_topology"]


@dataclass(frozen=True)
class Topology:
    """Active sets, and what made them.

    Attributes:
        masks: bool of each weight's shape, by parameter name; of weights with more than `lazy.LARGEST_TENSOR` positions
            the active ones, int64, ascending. Either is what `sparsify` takes as `init`.
        positions: number of positions of all sparse weights, active or not.
        about: recipe, method, density, share, epochs and whatever else says where it is from.
    """

    masks: dict[str, Tensor]
    about: dict[str, Any]
    positions: int

    @property
    def density(self) -> float:
        """Share of active positions over all sparse weights."""
        active = (mask.count_nonzero() if mask.dtype == torch.bool else mask.numel() for mask in self.masks.values())
        return sum(int(count) for count in active) / self.positions

    @property
    def share(self) -> str | None:
        return self.about.get("share")


def save_topology(file: Path, model: nn.Module, about: dict[str, Any]) -> None:
    """Writes the active sets of a sparse model, whole or not at all: a bit a position, compressed (.npz).

    Of weights with more than `lazy.LARGEST_TENSOR` positions, the distances between active positions instead.

    Args:
        about: plain values that JSON can hold.
    """
    weights = regrow.sparse_weights(model)
    arrays = {}
    for name, weight in weights.items():
        indices = weight.indices.cpu()
        if weight.numel > LARGEST_TENSOR:
            arrays[f"gaps/{name}"] = numpy.diff(indices.numpy(), prepend=0)
        else:
            mask = torch.zeros(weight.numel, dtype=torch.bool).index_fill_(0, indices, True)
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
        found, shapes, about = read_active_sets(file)
    except FileNotFoundError:
        raise UsageError(
            f"there is no topology file {file}; regrow train writes topology.npz into its folder"
        ) from None
    except (KeyError, ValueError, OSError, BadZipFile) as error:
        raise UsageError(f"{file} is not a topology file ({error}); regrow train writes it as topology.npz") from error
    masks = {name: torch.from_numpy(active) for name, active in found.items()}
    return Topology(masks, about, sum(math.prod(shape) for shape in shapes.values()))


def left_dense(model: nn.Module, masks: Mapping[str, Tensor]) -> list[str]:
    """The weights of a dense model that could be sparse, and that a topology leaves dense: it does not name them.

    Raises:
        UsageError: the topology names weights that the model does not have.
    """
    names = list(prunable(model))
    if unknown := [name for name in masks if name not in names]:
        raise UsageError(
            f"the topology belongs to another network: it has {unknown[0]}, this one has {names[0]} and others; set "
            "--model to the network that the topology was made with"
        )
    return [name for name in names if name not in masks]
