"""Compact: a smaller plain dense model without the neurons and channels that a sparse one no longer needs."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from regrow._sparsify import densify
from regrow.io.atomic import write_atomically
from regrow.weights import unwrapped

from ._coupling import LAYERS, NORMS, Coupling
from ._features import Call

__all__ = ["compact", "load_compact", "save_compact"]

_TENSORS = ("weight", "bias", "running_mean", "running_var")
_AGREEMENT = 1e-9
"""Tolerance of an exact removal, in float64, relative to the largest output or to 1."""


def compact(model: nn.Module, example_input: Any) -> nn.Module:
    """Returns a smaller plain dense copy of a model with equal outputs in evaluation; the model does not change.

    A feature (a neuron or a channel) is removed if no layer has a weight that reads it. It is also removed if it is
    constant, because everything that feeds it has no weights or is itself constant, and the constant can go into the
    biases of the layers that read it. Constants are followed through biases, batch norms and activations. A constant
    other than 0 does not go through zero padding, where the border has another sum than the middle. Features that are
    added are removed together or not at all. Features that only removed ones read are removed too, and so on. Each
    layer keeps at least one feature.

    Linear layers on (N, C), convolutions without groups and batch norms become smaller. Inputs and outputs of unknown
    operations and of the network do not change. At the end the copy runs on the example in float64 beside the original.

    Args:
        model: sparse or dense; its `forward` must be traceable by torch.fx.
        example_input: arguments of the model: a tensor with a batch in front, or a tuple of arguments.

    Raises:
        ValueError: the model cannot be traced, or has several floating dtypes.
        RuntimeError: the outputs differ, so the trace misses part of what the model does.

    Example:
        >>> small = regrow.compact(model, batch)
        >>> sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in make_model().parameters())
        True
    """
    plain = unwrapped(densify(model)).eval()
    dtype, device = _dtype(plain), next((p.device for p in plain.parameters()), None)
    plain.to("cpu", torch.float64)
    arguments = tuple(
        a.to("cpu", torch.float64 if a.is_floating_point() else a.dtype) if isinstance(a, Tensor) else a
        for a in (example_input if isinstance(example_input, tuple) else (example_input,))
    )
    with torch.no_grad():
        coupling = Coupling(_traced(plain))
        wanted = coupling.run(*copy.deepcopy(arguments))
        _shrink(coupling)
        _check_equal(plain(*arguments), wanted)
    return plain.to(device, dtype)


def save_compact(path: str | os.PathLike[str], model: nn.Module, example_input: Any) -> nn.Module:
    """Writes the state dict of the compact model, whole or not at all, and returns that model.

    Args:
        path: the file to write.
        model: sparse or dense; see `compact`.
        example_input: see `compact`.

    Example:
        >>> small = regrow.export.save_compact("compact.pt", model, batch)
        >>> small = regrow.export.load_compact("compact.pt", make_model())
    """
    small = compact(model, example_input)
    with write_atomically(path) as temporary:
        torch.save(small.state_dict(), temporary)
    return small


def load_compact(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Returns a copy of a plain dense model with the sizes and values of a compact one, in evaluation mode.

    Args:
        path: a file of `save_compact`.
        model: dense, of the kind that was made compact; it does not change.

    Raises:
        ValueError: it is not such a file, or belongs to another model.

    Example:
        >>> small = regrow.export.save_compact("compact.pt", model, batch)
        >>> torch.equal(regrow.export.load_compact("compact.pt", make_model())(batch), small(batch))
        True
    """
    state = _read(os.fspath(path))
    model = copy.deepcopy(model).eval()
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        own = {key: state[prefix + key] for key in _TENSORS if prefix + key in state}
        if own and type(module) in (*LAYERS, *NORMS):
            _resize(module, own)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{os.fspath(path)} holds another model: {' '.join(str(error).split())}") from error
    return model


def _read(path: str) -> dict[str, Tensor]:
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} was not written by save_compact, or is damaged ({type(error).__name__})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} was not written by save_compact: it is not a state dict")
    return state


def _dtype(model: nn.Module) -> torch.dtype:
    found = {t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()}
    if len(found) > 1:
        raise ValueError(f"the model has tensors of {sorted(map(str, found))}; use one dtype, as with model.float()")
    return found.pop() if found else torch.get_default_dtype()


def _traced(model: nn.Module) -> fx.GraphModule:
    try:
        return fx.symbolic_trace(model)
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} cannot be traced by torch.fx, so it cannot be made compact "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); export it dense or as safetensors"
        ) from error


def _shrink(coupling: Coupling) -> None:
    keep = _kept(coupling)
    for call in coupling.calls:
        rows, columns = keep[coupling.groups(call.outputs)], keep[coupling.groups(call.inputs)]
        own = {name: t.detach() for name in _TENSORS if (t := getattr(call.module, name, None)) is not None}
        if type(call.module) in LAYERS:
            folded = call.folded(~columns & call.foldable)
            if "bias" in own or folded.any():
                own["bias"] = own.get("bias", 0.0) + folded
            own["weight"] = own["weight"][:, columns]
        _resize(call.module, {name: tensor[rows].clone() for name, tensor in own.items()})


def _kept(coupling: Coupling) -> Tensor:
    """(groups,) bool: which features stay; at least one of each layer."""
    free = coupling.free
    layers = [call for call in coupling.calls if type(call.module) in LAYERS]
    ends = [(coupling.groups(call.inputs), coupling.groups(call.outputs)) for call in layers]
    while True:
        keep = _needed(free, layers, ends)
        emptied = [outputs for _, outputs in ends if not keep[outputs].any()]
        if not emptied:
            return keep
        free[emptied[0][0]] = False


def _needed(free: Tensor, layers: list[Call], ends: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The features that are not free, and those that are read by what stays and do not fold."""
    reads = [call.weight.any(2) & ~call.foldable for call in layers]
    keep = torch.ones_like(free)
    while True:
        needed = ~free
        for read, (inputs, outputs) in zip(reads, ends, strict=True):
            needed[inputs[read[keep[outputs]].any(0)]] = True
        if torch.equal(needed, keep):
            return keep
        keep = needed


def _resize(module: Any, tensors: Mapping[str, Tensor]) -> None:
    """Puts tensors of other sizes into a layer or a batch norm."""
    for name, tensor in tensors.items():
        if name.startswith("running"):
            setattr(module, name, tensor)
        else:
            old = getattr(module, name)
            setattr(module, name, nn.Parameter(tensor, old is None or old.requires_grad))
    sizes = tensors["weight"].shape if "weight" in tensors else tensors["running_mean"].shape
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = sizes
    elif type(module) in LAYERS:
        module.out_channels, module.in_channels = sizes[:2]
    else:
        module.num_features = sizes[0]


def _check_equal(found: Any, wanted: Any) -> None:
    for one, other in zip(tree_leaves(found), tree_leaves(wanted), strict=True):
        if isinstance(other, Tensor) and not torch.allclose(one, other, rtol=0, atol=_AGREEMENT * _largest(other)):
            raise RuntimeError(
                f"the compact model's output differs from the model's by {float((one - other).abs().max()):.3g}: the "
                "trace misses part of what the model does; export it dense or as safetensors"
            )


def _largest(output: Tensor) -> float:
    return max(1.0, float(output.abs().max())) if output.numel() else 1.0
