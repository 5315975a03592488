"""SparseWeight: one prunable parameter with its active set, whatever stores it.

Positions are flat, row-major positions in the dense shape of the weight, int64. Masked storage keeps the dense
parameter and a boolean buffer `<parameter>_mask` beside it, so `state_dict()` holds the whole topology. A sparse weight
looks its parameter up by (module, name) each time, for wrappers may replace the parameter object.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MaskedWeight", "SparseWeight", "mask_parameter", "sparse_weights", "unmask_parameter"]

GradientListener = Callable[[Tensor, Tensor], None]
"""Called with (gradient before masking, bits of the active set) each time a gradient has been accumulated."""

_MARK = "_regrow"
_WRAPPERS = {"_orig_mod", "_forward_module", "_original_module", "_checkpoint_wrapped_module"}
_BITS_DTYPE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class SparseWeight(ABC):
    """A weight of which only the active positions exist.

    Attributes:
        name: of the parameter in the model, such as "fc1.weight".
        module, attribute: where the parameter is found.
        storage: "masked" or "compressed".
        why: what decided the storage.
    """

    storage: str
    why: str

    def __init__(self, name: str, module: nn.Module, attribute: str):
        self.name = name
        self.module = module
        self.attribute = attribute

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that the optimizer trains."""
        return self.module._parameters[self.attribute]  # type: ignore[return-value]

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """Dense shape of the weight."""

    @property
    def numel(self) -> int:
        """Number of positions, active or not."""
        return self.shape.numel()

    @property
    @abstractmethod
    def active(self) -> int:
        """Number of active weights."""

    @property
    def density(self) -> float:
        """Share of active positions, in (0, 1]."""
        return self.active / self.numel

    @property
    @abstractmethod
    def indices(self) -> Tensor:
        """Active positions, int64, shape (active,), ascending."""

    @property
    def values(self) -> Tensor:
        """Active values, shape (active,), in the order of `indices`; a detached copy."""
        return self.take(self.parameter.detach())

    @abstractmethod
    def take(self, tensor: Tensor) -> Tensor:
        """The entries of a tensor of the parameter's shape that belong to `indices`, shape (active,)."""

    @abstractmethod
    def move(
        self,
        pruned: Tensor,
        grown: Tensor,
        state: Mapping[str, Any],
        grown_state: Mapping[str, Tensor],
    ) -> None:
        """Replaces the active set: `pruned` leave, `grown` enter with value 0; a position in both restarts at 0.

        Every tensor of `state` (the optimizer's, for this parameter) that has the parameter's shape moves along: 0
        where a weight left, `grown_state` (or 0) where one entered, untouched where one left and entered again.

        Args:
            pruned: active positions, ascending. grown: positions inactive or in `pruned`, ascending.
            state: optimizer state of the parameter. grown_state: per state name, values for `grown`.
        """

    @abstractmethod
    def listen(self, listener: GradientListener | None) -> None:
        """Has `listener` called at every gradient from now on; None ends it."""

    @abstractmethod
    def enforce(self) -> None:
        """Makes inactive weights exactly 0, whatever the optimizer did."""

    def __repr__(self) -> str:
        return f"SparseWeight({self.name}, {tuple(self.shape)}, active={self.active}, storage={self.storage})"


class GradientMask:
    """What makes a parameter sparse in masked storage: zeroes the gradient of inactive weights once accumulated.

    So gradient clipping sees the norm of the sparse network, and the optimizer's state of inactive weights stays 0.
    It lives in the module's `__dict__`, and so survives deepcopy and pickle together with the parameter that it hooks.
    """

    def __init__(self, parameter: nn.Parameter, attribute: str, why: str, module: nn.Module | None = None):
        self.attribute = attribute
        self.why = why
        self.module: Any = module  # None only while a copy is being made: the module's own state comes last
        self._mask_name = f"{attribute}_mask"
        self.listener: GradientListener | None = None
        self._bits: tuple[Tensor, int, torch.dtype, Tensor] | None = None
        self.attach(parameter)

    def attach(self, parameter: nn.Parameter) -> None:
        """Hooks a parameter, the first one or one that has replaced it."""
        self._parameter = weakref.ref(parameter)
        self._handle = parameter.register_post_accumulate_grad_hook(self)

    def detach(self) -> None:
        self._handle.remove()

    @property
    def parameter(self) -> nn.Parameter:
        parameter = self.module._parameters[self.attribute]
        if parameter is not self._parameter():
            self.attach(parameter)
        return parameter

    @property
    def mask(self) -> Tensor:
        return self.module._buffers[self._mask_name]

    def bits(self, dtype: torch.dtype) -> Tensor:
        """All bits set where a position is active, none elsewhere, as wide as `dtype`.

        An AND with these is exact for infinities and NaN, and in torch 2.14 six times faster than masked_fill_.
        """
        mask = self.mask
        if self._bits is None or self._bits[0] is not mask or self._bits[1] != mask._version or self._bits[2] != dtype:
            self._bits = (mask, mask._version, dtype, -mask.to(_BITS_DTYPE[dtype.itemsize]))
        return self._bits[3]

    def zero_inactive(self, tensor: Tensor) -> None:
        bits = self.bits(tensor.dtype)
        tensor.view(bits.dtype).bitwise_and_(bits)

    def __call__(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        if self.listener is not None:
            self.listener(gradient, self.bits(gradient.dtype))
        self.zero_inactive(gradient)

    def __reduce__(self) -> tuple[Any, ...]:
        return GradientMask, (self._parameter(), self.attribute, self.why), {"module": self.module}


class MaskedWeight(SparseWeight):
    """Masked storage: a dense parameter, and a boolean buffer that says which positions are active."""

    storage = "masked"

    @property
    def _gradient_mask(self) -> GradientMask:
        return self.module.__dict__[_MARK][self.attribute]

    @property
    def why(self) -> str:  # type: ignore[override]
        return self._gradient_mask.why

    @property
    def mask(self) -> Tensor:
        """Boolean buffer of the dense shape, True where a weight is active."""
        return self._gradient_mask.mask

    @property
    def shape(self) -> torch.Size:
        return self.mask.shape

    @property
    def active(self) -> int:
        return int(self.mask.sum())

    @property
    def indices(self) -> Tensor:
        return self.mask.reshape(-1).nonzero().squeeze(1)

    def take(self, tensor: Tensor) -> Tensor:
        return tensor.take(self.indices)

    @torch.no_grad()
    def move(self, pruned: Tensor, grown: Tensor, state: Mapping[str, Any], grown_state: Mapping[str, Tensor]) -> None:
        parameter, mask = self.parameter, self.mask
        newcomers = ~torch.isin(grown, pruned)
        entered = grown[newcomers]
        left = pruned[~torch.isin(pruned, grown)]
        for name, tensor in per_element_state(parameter, state).items():
            tensor.put_(left, tensor.new_zeros(left.shape))
            values = grown_state[name][newcomers] if name in grown_state else tensor.new_zeros(entered.shape)
            tensor.put_(entered, values.to(tensor.dtype))
        parameter.put_(pruned, parameter.new_zeros(pruned.shape))
        mask.put_(left, mask.new_zeros(left.shape))
        mask.put_(entered, mask.new_ones(entered.shape))

    def listen(self, listener: GradientListener | None) -> None:
        self._gradient_mask.listener = listener

    @torch.no_grad()
    def enforce(self) -> None:
        marker = self._gradient_mask
        marker.zero_inactive(marker.parameter)


def per_element_state(parameter: Tensor, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The optimizer's state tensors that hold one number for each element of the parameter."""
    return {
        name: value
        for name, value in state.items()
        if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0
    }


def mask_parameter(module: nn.Module, attribute: str, mask: Tensor, why: str) -> None:
    """Makes a dense parameter a sparse weight in masked storage: inactive values become 0.

    Args:
        mask: bool, of the parameter's shape, True where a weight is active.
        why: what decided the storage, for the summary.
    """
    parameter = getattr(module, attribute)
    kept = torch.zeros_like(parameter, dtype=torch.bool).copy_(mask)
    module.register_buffer(f"{attribute}_mask", kept)
    marker = GradientMask(parameter, attribute, why, module)
    module.__dict__.setdefault(_MARK, {})[attribute] = marker
    with torch.no_grad():
        marker.zero_inactive(parameter)


def unmask_parameter(weight: MaskedWeight) -> None:
    """Turns a masked weight back into a plain dense parameter, with zeros where it was inactive."""
    marks = weight.module.__dict__[_MARK]
    marks.pop(weight.attribute).detach()
    if not marks:
        del weight.module.__dict__[_MARK]
    delattr(weight.module, f"{weight.attribute}_mask")


def sparse_weights(model: nn.Module) -> dict[str, SparseWeight]:
    """The sparse weights of a model by parameter name, in the order of its modules; empty for a dense model.

    Wrappers (torch.compile, Lightning Fabric, DistributedDataParallel) do not change the names.

    Example:
        >>> model = regrow.sparsify(torch.nn.Linear(20, 10), density=0.1)
        >>> weight = regrow.sparse_weights(model)["weight"]
        >>> weight.active, weight.indices.shape, weight.values.shape
        (20, torch.Size([20]), torch.Size([20]))
    """
    weights: dict[str, SparseWeight] = {}
    for path, module in unwrapped(model).named_modules():
        for attribute in module.__dict__.get(_MARK, {}):
            name = plain_name(f"{path}.{attribute}" if path else attribute)
            weights.setdefault(name, MaskedWeight(name, module, attribute))
    return weights


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's model inside DistributedDataParallel."""
    while isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        model = model.module
    return model


def plain_name(name: str) -> str:
    """A parameter's name without the prefixes that wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
