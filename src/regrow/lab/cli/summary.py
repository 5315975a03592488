"""`regrow summary`: the network in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import regrow
from regrow._summary import Summary, SummaryRow
from regrow.export.sparse_file import is_safetensors
from regrow.lab.errors import RunError
from regrow.lab.training.folder import load_tensors
from regrow.lab.training.restored import load_network
from regrow.serialization import read

from .tables import console

__all__ = ["print_network"]


def print_network(path: Path) -> None:
    """Prints the layers of a network, and where its run stands.

    Args:
        path: a run folder, a checkpoint in one, or a file of `regrow.save` or `regrow.export.save_safetensors`.

    Raises:
        UsageError: there is nothing. RunError: it is something else, or damaged.
    """
    text = "\n".join(_layers_of_file(_content(path)) if _is_model(path) else _layers_of_run(path))
    console().print(text, markup=False, soft_wrap=True)


def _is_model(path: Path) -> bool:
    """Returns whether a file holds a model alone, as regrow.save writes it; a checkpoint has a number as its format."""
    if not path.is_file():
        return False
    content = None if is_safetensors(path) else load_tensors(path)
    return content is None or (isinstance(content, dict) and isinstance(content.get("format"), str))


def _content(path: Path) -> dict[str, Any]:
    try:
        return read(path)
    except ValueError as error:
        raise RunError(str(error)) from error


def _layers_of_file(content: Mapping[str, Any]) -> list[str]:
    state, shapes = content["state_dict"], content["sparse"]
    if not shapes:
        return _dense_layers(state)
    rows = tuple(_row(name, shape, state) for name, shape in shapes.items())
    stored = {part for name in shapes for part in (name, f"{name}_mask", *_beside(name))}
    others = sum(value.numel() for name, value in state.items() if isinstance(value, Tensor) and name not in stored)
    return [str(Summary(rows, None)), f"{others:,} further values, of parameters and buffers, are dense"]


def _row(name: str, shape: list[int], state: Mapping[str, Tensor]) -> SummaryRow:
    mask = state.get(f"{name}_mask")
    if mask is None:
        active, stray, storage = len(state[_beside(name)[0]]), 0, "compressed"
    else:
        active, stray, storage = int(mask.sum()), int(torch.count_nonzero(state[name][~mask])), "masked"
    return SummaryRow(name, tuple(shape), active, math.prod(shape), storage, "as saved", stray)


def _beside(name: str) -> list[str]:
    """The names of the buffers of a module that holds a compressed weight."""
    return [name.removesuffix("weight") + buffer for buffer in ("indices", "digest", "tuned")]


def _layers_of_run(path: Path) -> list[str]:
    _, model, state = load_network(path)
    stored, position = state["settings"], state["position"]
    text = f"{stored['recipe']}, {stored['method']}, density {stored['density']:g}, seed {stored['seed']}: "
    text += f"{position['epoch']} of {stored['epochs']} epochs, {position['step']} steps, {position['updates']} updates"
    layers = [str(regrow.summary(model))] if regrow.sparse_weights(model) else _dense_layers(state["model"])
    return [text, *layers]


def _dense_layers(state: Mapping[str, Any]) -> list[str]:
    shapes = [f"{name}  {tuple(value.shape)}" for name, value in state.items() if isinstance(value, Tensor)]
    return ["dense: all weights are active", *shapes]
