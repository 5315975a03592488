"""Files that are written whole or not at all, and sparse models in them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .sparsify import prunable, sparsify
from .storage import Storage
from .weights import plain_name, sparse_weights, unwrapped

__all__ = ["load", "save", "write_atomically"]

_FORMAT = "regrow sparse model 1"


@contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed to it once written; a failure leaves the old file as it was.

    Example:
        >>> with write_atomically("summary.json") as temporary:
        ...     temporary.write_text("{}")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save(path: str | os.PathLike[str], model: nn.Module) -> None:
    """Writes a model, dense or sparse, with its active sets; whole or not at all. Wrappers leave no trace in the file.

    Example:
        >>> regrow.save("model.pt", model)
        >>> model = regrow.load("model.pt", make_model())
    """
    content = {
        "format": _FORMAT,
        "sparse": {name: list(weight.shape) for name, weight in sparse_weights(model).items()},
        "state_dict": {plain_name(name): value for name, value in unwrapped(model).state_dict().items()},
    }
    with write_atomically(path) as temporary:
        torch.save(content, temporary)


def load(path: str | os.PathLike[str], model: nn.Module, *, storage: Storage | None = None) -> nn.Module:
    """Reads what `save` wrote into a model of the same kind, dense or sparse; use the returned model.

    A sparse model takes over the active sets of the file, in whatever storage it has; a dense one is made sparse with
    them, in the storage asked for (see `sparsify`; None: that of the file).

    Raises:
        ValueError: not such a file, or one of another model, whose differing names are listed; nothing is changed.
    """
    content = _read(path)
    state: dict[str, Any] = content["state_dict"]
    shapes = content["sparse"]
    _check_fits(os.fspath(path), model, state, shapes)
    if shapes and not sparse_weights(model):
        if fixed := sorted(shapes.keys() - prunable(model).keys()):
            raise ValueError(f"{fixed} are sparse in {os.fspath(path)}, but frozen here; freeze them after loading")
        dense = [name for name in prunable(model) if name not in shapes]
        of_file: Storage = "masked" if all(f"{name}_mask" in state for name in shapes) else "compressed"
        active = {name: _active(state, name) for name in shapes}
        model = sparsify(model, None, init=active, dense=dense, storage=storage or of_file)
    target = unwrapped(model)
    wrapped_names = {plain_name(name): name for name in target.state_dict()}
    target.load_state_dict({wrapped_names.get(name, name): value for name, value in state.items()})
    return model


def _active(state: Mapping[str, Any], name: str) -> Tensor:
    """The active set of a weight as `sparsify` takes it, from the state of either storage."""
    return state[f"{name}_mask"] if f"{name}_mask" in state else state[_beside(name, "indices")].long()


def _beside(name: str, buffer: str) -> str:
    """The name of a buffer of the module that holds a compressed weight."""
    return name.removesuffix("weight") + buffer


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    wrong = f"{os.fspath(path)} was not written by regrow.save, or is damaged"
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no {os.fspath(path)}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{wrong} ({type(error).__name__})") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(wrong)
    return content


def _check_fits(path: str, model: nn.Module, state: Mapping[str, Any], sparse: Mapping[str, list[int]]) -> None:
    ours = sparse_weights(model)
    if ours and sorted(ours) != sorted(sparse):
        raise ValueError(f"{path} holds another model: sparse there: {sorted(sparse)}, sparse here: {sorted(ours)}")
    here = {plain_name(name): _shape(value) for name, value in unwrapped(model).state_dict().items()}
    here = _without_storage(here, ours) | {name: tuple(weight.shape) for name, weight in ours.items()}
    there = {name: _shape(value) for name, value in state.items()}
    there = _without_storage(there, sparse) | {name: tuple(shape) for name, shape in sparse.items()}
    differing = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    if differing:
        details = ", ".join(f"{n} ({there.get(n)} there, {here.get(n)} here)" for n in differing[:5])
        raise ValueError(f"{path} holds another model; {len(differing)} entries differ: {details}")


def _without_storage(shapes: Mapping[str, Any], sparse: Iterable[str]) -> dict[str, Any]:
    """Shapes without the entries that depend on how sparse weights are stored."""
    buffers = {name: (f"{name}_mask", _beside(name, "indices"), _beside(name, "tuned")) for name in sparse}
    stored = {part for name in sparse for part in (name, *buffers[name])}
    return {name: shape for name, shape in shapes.items() if name not in stored}


def _shape(value: Any) -> Any:
    """The shape of a tensor; of anything else (a module's extra state) its type."""
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut, where folders can be synced."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
