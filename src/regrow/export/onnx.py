"""ONNX: the dense network for other runtimes, with zeros where weights were inactive."""

from __future__ import annotations

import os
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from regrow._sparsify import densify
from regrow.io.atomic import write_atomically
from regrow.weights import unwrapped

from ._optional import need

__all__ = ["onnx_session", "save_onnx"]

_AGREEMENT = 1e-5
"""By how much onnxruntime may differ from torch, of the largest output."""


def save_onnx(path: str | os.PathLike[str], model: nn.Module, example_input: Any) -> None:
    """Writes the dense network as ONNX, in evaluation mode, after onnxruntime gives equal outputs; whole or not at all.

    Runtimes that use zeros compute faster with it; onnxruntime does not. Make the network compact first if you want a
    smaller one. The first dimension of every input is free.

    Args:
        path: the file to write.
        model: sparse or dense, in float32.
        example_input: arguments of the model: a tensor with a batch of two or more in front, or a tuple of them.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing. ValueError: torch cannot export the model.
        RuntimeError: onnxruntime's outputs differ from torch's by more than 1e-5 of the largest, and from those in
            float64 by more than twice what torch's own rounding does.

    Example:
        >>> regrow.export.save_onnx("model.onnx", model, batch)
    """
    for library in ("onnx", "onnxscript", "onnxruntime"):
        need(library, "onnx")
    plain = unwrapped(densify(model)).eval().cpu()
    arguments = example_input if isinstance(example_input, tuple) else (example_input,)
    arguments = tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, arguments)
    with write_atomically(path) as temporary:
        _export(plain, arguments, temporary)
        _check_equal(plain, arguments, temporary)


def _export(plain: nn.Module, arguments: tuple[Any, ...], file: Path) -> None:
    free = tuple({0: torch.export.Dim.DYNAMIC} for _ in arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecations inside the exporter
            torch.onnx.export(
                plain, arguments, file, dynamo=True, dynamic_shapes=free, external_data=False, verbose=False
            )
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"torch.onnx cannot export {type(plain).__name__} ({type(error).__name__}: {reason})"
        ) from error


def onnx_session(path: str | os.PathLike[str], threads: int | None = None) -> Any:
    """Returns a function with the network's arguments, computed by onnxruntime on the CPU; it returns a list of arrays.

    Args:
        path: a file of `save_onnx`.
        threads: threads of onnxruntime; None: its choice.
    """
    runtime = need("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    # Or its threads would spin on after a run, and halve the speed of whoever comes next in this process.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda *arguments: session.run(
        None, {name: value.numpy() for name, value in zip(names, arguments, strict=True)}
    )


def _check_equal(plain: nn.Module, arguments: tuple[Any, ...], file: Path) -> None:
    found = [torch.from_numpy(one) for one in onnx_session(file)(*arguments)]
    wanted = _outputs(plain, arguments)
    if all(_distance(*pair) <= _AGREEMENT * float(pair[1].abs().max()) for pair in zip(found, wanted, strict=True)):
        return
    exact = _outputs(deepcopy(plain).double(), tree_map(_in_double, arguments))
    for one, other, truth in zip(found, wanted, exact, strict=True):
        if not _distance(one, truth) <= 2 * _distance(other, truth):
            raise RuntimeError(
                f"onnxruntime's output differs from torch's by {_distance(one, other):.3g}; nothing was written"
            )


def _outputs(model: nn.Module, arguments: tuple[Any, ...]) -> list[Tensor]:
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(model(*arguments)) if isinstance(leaf, Tensor)]


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _in_double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
