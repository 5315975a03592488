"""SparseWeight: one prunable parameter with its active set, whatever stores it.

Positions are flat, row-major positions in the dense shape of the weight, int64. A sparse weight looks its parameter up
by (module, name) each time, because wrappers may replace the parameter object.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .tap import GradientListener, GradientTap

__all__ = [
    "SparseWeight",
    "Switch",
    "among",
    "hook_gradients",
    "is_sharded",
    "local",
    "per_element_state",
    "put",
]


@dataclass
class Switch:
    """When a weight in masked storage becomes compressed.

    Attributes:
        below: the density at or below which it does, in (0, 1).
        tune: see `sparsify`; of the compressed layer.
        tuned: what the layer has measured, where it was compressed before; see `SparseLayer.tuned`.
    """

    below: float
    tune: bool = False
    tuned: Tensor | None = field(default=None, compare=False)

    @property
    def why(self) -> str:
        """The reason for masked storage, for the summary."""
        return f"masked until its density is {self.below:.0%}"

    def allows(self, active: int, numel: int) -> bool:
        """Returns whether so many active weights of so many are compressed."""
        return active <= math.ceil(self.below * numel)


class SparseWeight(ABC):
    """A weight of which only the active positions exist.

    Attributes:
        name: name of the parameter in the model, such as "fc1.weight".
        module: the module that holds the parameter.
        attribute: name of the parameter in the module.
        storage: name of the storage, such as "masked" or "compressed".
        why: the reason for the storage.
        keeps_parameter_shape: whether the parameter has the dense shape, so that optimizers see it, and keep state of
            it, as of a dense one; if not, it is a column of the active values.
        reduces_own_gradient: whether regrow averages its gradient over ranks, because the parameter changes its size.
        default_window: steps before an update in which gradients of all positions are collected; None: all steps.
        switch: when it becomes compressed, while it is masked; None where it keeps its storage.
    """

    storage: str
    why: str
    keeps_parameter_shape = True
    reduces_own_gradient = False
    default_window: int | None = None
    switch: Switch | None = None

    def __init__(self, name: str, module: nn.Module, attribute: str):
        self.name = name
        self.module = module
        self.attribute = attribute

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that the optimizer trains."""
        return self.module._parameters[self.attribute]  # type: ignore[return-value]

    @property
    def version(self) -> int:
        """Version of the parameter: it changes with every write but those through `.data`."""
        parameter = self.module._parameters.get(self.attribute)
        return -1 if parameter is None else parameter._version

    @property
    def gradient(self) -> Tensor | None:
        """The parameter's .grad, as far as this process holds it."""
        return self.parameter.grad

    @property
    @abstractmethod
    def buffers(self) -> tuple[str, ...]:
        """Names of the buffers of `module` that the storage keeps."""

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
    def rows(self) -> Tensor:
        """The output (row, filter) that each active weight leads to, int64, shape (active,), in the order of `indices`.

        By these a gradient of compressed storage, (active, 1), is seen as the dense one: norms of rows are
        `torch.zeros(weight.shape[0]).index_add(0, weight.rows, gradient.view(-1) ** 2).sqrt()`.
        """
        return self.indices // (self.numel // self.shape[0])

    @property
    def values(self) -> Tensor:
        """Active values, shape (active,), in the order of `indices`; a detached copy."""
        return self.take(self.parameter.detach())

    @abstractmethod
    def take(self, tensor: Tensor) -> Tensor:
        """The entries of a tensor of the parameter's shape that belong to `indices`, shape (active,).

        Args:
            tensor: a tensor of the parameter's shape, such as optimizer state.
        """

    @abstractmethod
    def write(self, values: Tensor) -> None:
        """Sets the active values, shape (active,), in the order of `indices`.

        Args:
            values: shape (active,), in the order of `indices`.
        """

    @abstractmethod
    def move(
        self,
        pruned: Tensor,
        grown: Tensor,
        state: dict[str, Any],
        grown_state: Mapping[str, Tensor],
        restart: bool = False,
    ) -> None:
        """Replaces the active set: removes `pruned` and adds `grown` with value 0; a position in both restarts at 0.

        Every tensor of `state` (the optimizer's, for this parameter) that has the parameter's shape moves along: 0 for
        pruned weights, `grown_state` (or 0) for grown ones. Weights that were pruned and grown again keep their state,
        unless `restart` is set.

        Args:
            pruned: active positions, ascending.
            grown: positions inactive or in `pruned`, ascending.
            state: optimizer state of the parameter.
            grown_state: per state name, values for `grown`, shape (grown,).
            restart: use `grown_state` (or 0) also for weights that were pruned and grown again.
        """

    @property
    @abstractmethod
    def topology(self) -> tuple[Tensor, Any]:
        """The tensor that says which positions are active, and its version: others, once the active set is another."""

    @property
    @abstractmethod
    def last_update(self) -> int:
        """Optimizer steps that had been taken at the last topology update; 0 before the first. State dicts know it."""

    @last_update.setter
    @abstractmethod
    def last_update(self, step: int) -> None: ...

    @abstractmethod
    def realign(self, before: Tensor, state: dict[str, Any]) -> None:
        """Aligns an optimizer's state with an active set that was changed without `move`.

        Weights that stay keep their state; the others start at 0.

        Args:
            before: the tensor of `topology` for which the state was made.
            state: optimizer state of the parameter.
        """

    @abstractmethod
    def check(self) -> None:
        """Raises RuntimeError where values and active set do not belong together any more."""

    def accept_values(self) -> None:  # noqa: B027 (only a storage with an identity of values has to be told)
        """Accepts the values as those of the active set, after other code has written them to its positions."""

    def copy_choices(self, other: SparseWeight) -> None:  # noqa: B027 (most storages choose nothing)
        """Copies what another weight's storage has chosen for its computation, such as measured kernels.

        Args:
            other: the same weight of another model.
        """

    def stray(self) -> int:
        """Returns how many inactive weights are not 0, as dense checkpoints, merges or init functions leave them."""
        return 0

    def stray_in_sample(self, size: int) -> bool:
        """Returns whether one of about `size` inactive weights, evenly spread, is not 0.

        Args:
            size: approximate number of weights to check.
        """
        return False

    @property
    @abstractmethod
    def collecting(self) -> bool:
        """Returns whether a tap collects gradients of all positions."""

    @abstractmethod
    def tap(self, listener: GradientListener, window_batch: int | None = None) -> GradientTap:
        """Returns a tap of the weight's gradients, which calls a bound method for as long as its object lives.

        Args:
            listener: a bound method.
            window_batch: number of examples of a batch used for the gradient of all positions; None: all. Storages that
                get it from all at no cost use all.
        """

    @property
    def stages_products(self) -> bool:
        """Returns whether what a tap stages is a product of thin factors, while these are smaller than the weight."""
        return False

    def gradient_at(self, input: Tensor, grad_output: Tensor, positions: Tensor) -> Tensor:
        """The gradient at some positions, of what a tap that `keeps_pairs` stages; shape of `positions`.

        Args:
            input: of the layer, for a batch.
            grad_output: gradient of its output.
            positions: flat and row-major, int64, ascending.
        """
        raise NotImplementedError(f"{type(self).__name__} stages no pairs")

    @property
    def gradient_positions(self) -> int:
        """Positions of which a training step needs the gradient: all while collecting, else the active ones."""
        return self.numel if self.collecting else self.active

    def whole(self, moment: Tensor) -> Tensor:
        """A tensor of the parameter's dense shape at all positions, shape (numel,).

        Args:
            moment: a tensor of the dense shape, as far as this process holds it.
        """
        return moment.reshape(-1)

    def pick(self, moment: Tensor, positions: Tensor) -> Tensor:
        """A tensor of the dense shape at some positions.

        Args:
            moment: a tensor of the dense shape, as far as this process holds it.
            positions: flat and row-major, int64.
        """
        return moment.take(positions)

    def place(self, moment: Tensor, positions: Tensor, values: Tensor | float | bool) -> None:
        """Writes to some positions of a tensor of the dense shape.

        Args:
            moment: a tensor of the dense shape, as far as this process holds it; written to.
            positions: flat and row-major, int64.
            values: one for each position, or one for all.
        """
        put(moment, positions, values)

    def pack(self, moment: Tensor) -> Any:
        """A tensor of the dense shape for a checkpoint.

        Args:
            moment: a tensor of the dense shape, as far as this process holds it.
        """
        return moment

    @abstractmethod
    def sample(self, size: int) -> Tensor:
        """About `size` flat positions of active weights in the parameter, evenly spread.

        Args:
            size: approximate number of positions.
        """

    @abstractmethod
    def enforce(self) -> None:
        """Makes inactive weights exactly 0, whatever the optimizer did."""

    def __repr__(self) -> str:
        return f"SparseWeight({self.name}, {tuple(self.shape)}, active={self.active}, storage={self.storage})"


def per_element_state(parameter: Tensor, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The optimizer's state tensors that hold one number for each element of the parameter."""
    return {
        name: value
        for name, value in state.items()
        if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0
    }


def is_sharded(tensor: Any) -> bool:
    """Returns whether a tensor is a DTensor, of which this process holds a part."""
    return hasattr(tensor, "_local_tensor")


def local(tensor: Any) -> Any:
    """Returns what this process holds of a tensor: the one that DTensor's operators write to, or the tensor itself."""
    return tensor._local_tensor if is_sharded(tensor) else tensor


def put(tensor: Tensor, positions: Tensor, values: Tensor | float | bool) -> None:
    """Writes values at flat row-major positions, whatever the strides; deterministic, which Tensor.put_ is not."""
    if isinstance(values, Tensor):
        values = values.to(tensor.dtype)
    else:
        values = torch.tensor(values, dtype=tensor.dtype, device=tensor.device)
    if tensor.is_contiguous():
        tensor.view(-1)[positions] = values
    else:
        tensor[torch.unravel_index(positions, tensor.shape)] = values


def among(positions: Tensor, others: Tensor) -> Tensor:
    """Which positions are also among `others`, bool; `others` are ascending."""
    if not others.numel():
        return torch.zeros_like(positions, dtype=torch.bool)
    places = torch.searchsorted(others, positions).clamp_(max=others.numel() - 1)
    return others[places] == positions


def hook_gradients(parameter: nn.Parameter, hook: Callable[..., None]) -> Any:
    """The handle of a hook behind each accumulated gradient, which torch refuses while a parameter is frozen."""
    frozen = not parameter.requires_grad
    parameter.requires_grad_(True)
    handle = parameter.register_post_accumulate_grad_hook(hook)
    if frozen:
        parameter.requires_grad_(False)
    return handle
