"""The compact sparse file: a safetensors file of active values and of the distances between their positions.

`docs/export.md` describes its format. `regrow.load` reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regrow.io.atomic import write_atomically
from regrow.weights import Places, SparseWeight, plain_name, sparse_weights, unwrapped
from regrow.weights.storage import STORAGES
from regrow.weights.stray import check_no_stray

from ._optimizer_state import pack_optimizer, unpack_optimizer
from ._positions import decode, encode

__all__ = ["is_safetensors", "load_optimizer", "read_sparse_file", "save_safetensors"]

_FORMAT = "regrow sparse file 1"
_VALUES, _DELTAS, _OPTIMIZER = "values/", "deltas/", "optimizer/"


def save_safetensors(
    path: str | os.PathLike[str], model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Writes a sparse model as a safetensors file, whole or not at all; `regrow.load` loads it into a model.

    It holds the active values and their positions (about a byte each), all other parameters and buffers, and, if you
    pass an optimizer, its state for the active weights. That is all that training needs except the updater, which
    starts again. The file is exact to the bit, and reading it executes nothing.

    Args:
        path: the file to write.
        model: sparse or dense, in any storage.
        optimizer: a torch optimizer of the model's parameters, whose state is kept too (see `load_optimizer`).

    Raises:
        ValueError: the file cannot hold something: extra state other than tensors, inactive weights that are not 0, an
            optimizer with other parameters, or optimizer state of inactive weights that is not 0.

    Example:
        >>> regrow.export.save_safetensors("model.safetensors", model)
        >>> model = regrow.load("model.safetensors", make_model())
    """
    check_no_stray(model, "a sparse file")
    weights = sparse_weights(model)
    tensors = _dense_entries(model, weights)
    sparse = {}
    for name, weight in weights.items():
        sparse[name] = {"shape": list(weight.shape), "active": weight.active, "storage": weight.storage}
        tensors[_VALUES + name] = weight.values
        tensors[_DELTAS + name] = encode(weight.indices.cpu())
    about: dict[str, Any] = {"format": _FORMAT, "sparse": sparse}
    if optimizer is not None:
        about["optimizer"], of_optimizer = pack_optimizer(model, optimizer)
        tensors |= {_OPTIMIZER + name: tensor for name, tensor in of_optimizer.items()}
    _write(path, about, tensors)


def _write(path: str | os.PathLike[str], about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    text = json.dumps(about, sort_keys=True)
    tensors = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    with write_atomically(path) as temporary:
        save_file(tensors, temporary, metadata={"regrow": text, "sha256": _digest(text, tensors)})


def _dense_entries(model: nn.Module, weights: Mapping[str, SparseWeight]) -> dict[str, Tensor]:
    """The entries of the state dict that do not belong to how sparse weights are stored, each once."""
    stored = {part for name, weight in weights.items() for part in (name, *STORAGES[weight.storage].state_keys(name))}
    entries = {plain_name(name): value for name, value in unwrapped(model).state_dict().items()}
    places = Places(model)
    entries = {n: value for n, value in entries.items() if n not in stored and not places.again(n)}
    if odd := [name for name, value in entries.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{', '.join(odd)}: a sparse file cannot hold extra state other than tensors; use regrow.save")
    if taken := [name for name in entries if name.startswith((_VALUES, _DELTAS, _OPTIMIZER))]:
        raise ValueError(f"{', '.join(taken)}: a sparse file reserves such names; rename the module")
    return entries


def is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file begins as a safetensors file does: with the length of its header, and the header's brace.

    Args:
        path: an existing file.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    return start[8:] == b"{"


def read_sparse_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads and checks a file of `save_safetensors`, and returns the model in the form that `regrow.save` writes.

    Args:
        path: a file of `save_safetensors`.

    Returns:
        "sparse": the shapes of the sparse weights by name; "state_dict": a state dict, of the storage that each had.

    Raises:
        ValueError: it is another kind of file, or damaged.
    """
    about, tensors = _read(path)
    state = {name: t for name, t in tensors.items() if not name.startswith((_VALUES, _DELTAS, _OPTIMIZER))}
    for name, weight in about["sparse"].items():
        values, positions = tensors[_VALUES + name], tensors[_DELTAS + name]
        kind = STORAGES.get(weight["storage"], STORAGES["masked"])
        state |= kind.state_of(name, values, positions, weight["shape"])
    return {"sparse": {name: weight["shape"] for name, weight in about["sparse"].items()}, "state_dict": state}


def load_optimizer(path: str | os.PathLike[str], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Loads an optimizer's state and settings from a sparse file, for a model in any storage.

    Args:
        path: a file of `save_safetensors` with an optimizer.
        model: the model that `regrow.load` returned from the same file.
        optimizer: an optimizer of the same kind as the saved one, with the same parameters in the same groups.

    Raises:
        ValueError: the file has no optimizer, or that of another model; nothing is changed.

    Example:
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> regrow.export.save_safetensors("training.safetensors", model, optimizer)
        >>> again = regrow.load("training.safetensors", make_model())
        >>> optimizer = torch.optim.SGD(again.parameters(), lr=0.1, momentum=0.9)
        >>> regrow.export.load_optimizer("training.safetensors", again, optimizer)
    """
    about, tensors = _read(path)
    if "optimizer" not in about:
        raise ValueError(f"{os.fspath(path)} has no optimizer; write it with save_safetensors(path, model, optimizer)")
    weights = sparse_weights(model)
    here = {name: weight.indices.cpu() for name, weight in weights.items()}
    there = {name: tensors[_DELTAS + name] for name in about["sparse"]}
    if differing := [n for n in here.keys() | there.keys() if not _equal(here.get(n), there.get(n))]:
        raise ValueError(
            f"{', '.join(sorted(differing))}: the active weights of the model are not those in {os.fspath(path)}; "
            "load the model from that file first, with regrow.load"
        )
    kept = {name.removeprefix(_OPTIMIZER): t for name, t in tensors.items() if name.startswith(_OPTIMIZER)}
    optimizer.load_state_dict(unpack_optimizer(model, optimizer, about["optimizer"], kept))


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the metadata of a file of `save_safetensors`, and its tensors by name, checked; positions for deltas.

    Raises:
        ValueError: it is another kind of file, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    wrong = f"{os.fspath(path)} was not written by regrow.export.save_safetensors, or is damaged"
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        about = json.loads(metadata["regrow"])
        if about["format"] != _FORMAT:
            raise ValueError(f"its format is {about['format']!r}, expected {_FORMAT!r}")
        if metadata["sha256"] != _digest(metadata["regrow"], tensors):
            raise ValueError("its checksum does not match its content")
        return about, tensors | _positions(about["sparse"], tensors)
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{wrong} ({type(error).__name__}: {error})") from error


def _positions(sparse: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The positions of each sparse weight, under the names of their deltas."""
    found = {}
    for name, weight in sparse.items():
        positions = decode(tensors[_DELTAS + name], weight["active"])
        if tensors[_VALUES + name].shape != positions.shape:
            raise ValueError(f"{name} has {tensors[_VALUES + name].numel()} values for {len(positions)} positions")
        if len(positions) and not 0 <= positions.min() <= positions.max() < math.prod(weight["shape"]):
            raise ValueError(f"{name} has a position outside its shape {weight['shape']}")
        found[_DELTAS + name] = positions
    return found


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of what a file says of itself and of all its tensors, as hexadecimal digits."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
