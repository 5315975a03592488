"""Files of sparse models, and what `torch.load` must be allowed for pickles of whole ones."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from regrow._sparsify import sparsify
from regrow.weights.prunable import prunable

from .distributed import GradientMean
from .export.sparse_file import is_safetensors, read_sparse_file
from .io.atomic import write_atomically
from .io.checked import load_checked, save_checked
from .nn import SparseConv2d, SparseLinear
from .nn.blocked import blocked_inputs, ordinary_outputs
from .weights import GradientMask, Places, Switch, plain_name, sparse_weights, unwrapped
from .weights.masked import HOOKS
from .weights.storage import STORAGES
from .weights.stray import check

__all__ = ["check_same_model", "load", "read", "safe_globals", "save"]

_FORMAT = "regrow sparse model 2"
_WITHOUT_CHECKSUM = "regrow sparse model 1"


def save(path: str | os.PathLike[str], model: nn.Module) -> None:
    """Writes a model, dense or sparse, with its active sets, whole or not at all. The file does not show wrappers.

    All is kept as it is; of inactive weights that are not 0 it warns (see `regrow.check`).

    Args:
        path: the file to write.
        model: dense or sparse, inside wrappers or not.

    Example:
        >>> regrow.save("model.pt", model)
        >>> model = regrow.load("model.pt", make_model())
    """
    for text in check(model):
        warnings.warn(text, stacklevel=2)
    weights = sparse_weights(model)
    content = {
        "format": _FORMAT,
        "sparse": {name: list(weight.shape) for name, weight in weights.items()},
        "last_update": {name: weight.last_update for name, weight in weights.items()},
        "state_dict": {plain_name(name): value for name, value in unwrapped(model).state_dict().items()},
    }
    with write_atomically(path) as temporary:
        save_checked(content, temporary)


def load(path: str | os.PathLike[str], model: nn.Module, *, storage: str | None = None) -> nn.Module:
    """Reads what `save` or `export.save_safetensors` wrote into a model of the same kind; use the returned model.

    A sparse model takes the active sets of the file and keeps its storage. A dense model becomes sparse with them, in
    the given storage (see `sparsify`; None: that of the file).

    Args:
        path: a file of `save` or `export.save_safetensors`.
        model: a model of the same kind, dense or sparse.
        storage: storage for a dense model: "auto", "masked" or "compressed"; None: that of the file.

    Raises:
        ValueError: it is not such a file, or belongs to another model; the message lists the names that differ, and
            nothing is changed.
    """
    content = read(path)
    state: dict[str, Any] = content["state_dict"]
    shapes = content["sparse"]
    check_same_model(path, model, state, shapes)
    if shapes and not sparse_weights(model):
        if fixed := sorted(shapes.keys() - prunable(model, also=shapes).keys()):
            raise ValueError(f"{fixed} are sparse in {os.fspath(path)}, but frozen here; freeze them after loading")
        dense = [name for name in prunable(model, also=shapes) if name not in shapes]
        kept = {name: _kept(state, name) for name in shapes}
        of_file, *_ = sorted({kind for kind, _ in kept.values()}, key=list(STORAGES).index)
        active = {name: indices for name, (_, indices) in kept.items()}
        model = sparsify(model, None, init=active, dense=dense, storage=storage or of_file)
    target = unwrapped(model)
    wrapped_names = {plain_name(name): name for name in target.state_dict()}
    state = Places(model).filled(state)
    target.load_state_dict({wrapped_names.get(name, name): value for name, value in state.items()})
    for name, weight in sparse_weights(model).items():
        weight.last_update = content.get("last_update", {}).get(name, 0)
    return model


def _kept(state: Mapping[str, Any], name: str) -> tuple[str, Tensor]:
    """The storage of a weight in a state dict, and its active set as `sparsify` takes it."""
    found = (
        (kind.name, indices) for kind in STORAGES.values() if (indices := kind.indices_in(state, name)) is not None
    )
    return next(found)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what a file of `save` or `export.save_safetensors` holds, without a model.

    Returns:
        "sparse": the shapes of the sparse weights by name; "state_dict": a state dict, in the storage that each has.

    Raises:
        ValueError: it is not such a file, or is damaged.

    Example:
        >>> regrow.save("model.pt", model)
        >>> read("model.pt")["sparse"]["fc1.weight"]
        [30, 784]
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no {os.fspath(path)}")
    if is_safetensors(path):
        return read_sparse_file(path)
    content = load_checked(path, unchecked=_WITHOUT_CHECKSUM)
    if not isinstance(content, dict) or content.get("format") not in (_FORMAT, _WITHOUT_CHECKSUM):
        raise ValueError(f"{os.fspath(path)} was not written by regrow.save, or is from a newer version")
    return content


def check_same_model(
    path: str | os.PathLike[str], model: nn.Module, state: Mapping[str, Any], sparse: Mapping[str, Iterable[int]]
) -> None:
    """Raises where a file holds the state of another model, however its sparse weights are stored; changes nothing.

    Args:
        path: path of the file, for the message.
        state: a state dict without wrappers' prefixes.
        sparse: the shape of each weight that is sparse there.

    Raises:
        ValueError: names and shapes of what differs.

    Example:
        >>> check_same_model("model.pt", make_model(), make_model().state_dict(), {})
    """
    place, ours = os.fspath(path), sparse_weights(model)
    if ours and sorted(ours) != sorted(sparse):
        raise ValueError(f"{place} holds another model: sparse there: {sorted(sparse)}, sparse here: {sorted(ours)}")
    places = Places(model)
    here = {plain_name(name): _shape(value) for name, value in unwrapped(model).state_dict().items()}
    here = _without_storage(here, ours, places) | {name: tuple(weight.shape) for name, weight in ours.items()}
    there = {name: _shape(value) for name, value in state.items()}
    there = _without_storage(there, sparse, places) | {name: tuple(shape) for name, shape in sparse.items()}
    differing = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    if differing:
        details = ", ".join(f"{n} ({there.get(n)} there, {here.get(n)} here)" for n in differing[:5])
        raise ValueError(f"{place} holds another model; {len(differing)} entries differ: {details}")


def _without_storage(shapes: Mapping[str, Any], sparse: Iterable[str], places: Places) -> dict[str, Any]:
    """Shapes without the entries that depend on how sparse weights are stored, each once."""
    stored = {part for name in sparse for kind in STORAGES.values() for part in (name, *kind.state_keys(name))}
    return {name: shape for name, shape in shapes.items() if name not in stored and not places.again(name)}


def _shape(value: Any) -> Any:
    """The shape of a tensor; of anything else (a module's extra state) its type."""
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def safe_globals() -> list[Any]:
    """Returns the classes and functions that `torch.load` needs to read a whole sparse model from a pickle.

    None of them does anything but put a model together. State dicts and files of `regrow.save` need none.

    Example:
        >>> torch.save(model, "whole.pt")
        >>> own = [type(module) for module in model.modules()]
        >>> with torch.serialization.safe_globals([*own, *regrow.safe_globals()]):
        ...     again = torch.load("whole.pt")
    """
    layers = [SparseLinear, SparseConv2d, blocked_inputs, ordinary_outputs]
    return [*layers, GradientMask, Switch, *HOOKS, GradientMean, *GradientMean.HOOKS, nn.modules.module._WrappedHook]
