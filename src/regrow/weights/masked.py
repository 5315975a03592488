"""Masked storage: the dense parameter, and a boolean buffer `<parameter>_mask` that says which positions are active.

It serves any layer on any device. `state_dict()` holds the whole topology, for the mask is a buffer of the module.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .base import GradientListener, SparseWeight, among, hook_gradients, is_sharded, local, per_element_state
from .staged import StagedGradient

__all__ = ["MARK", "GradientMask", "MaskedWeight", "mask_parameter", "unmask_parameter"]

MARK = "_regrow"
"""Where a module keeps the `GradientMask` of each of its masked parameters: a dict in its `__dict__`."""

_BITS_DTYPE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class GradientMask:
    """What makes a parameter sparse in masked storage: zeroes the gradient of inactive weights once accumulated.

    So gradient clipping sees the norm of the sparse network, and the optimizer's state of inactive weights stays 0.
    It lives in the module's `__dict__`, and so survives deepcopy and pickle together with the parameter that it hooks.
    What it refers to, it refers to weakly: Python cannot see, and so not collect, a cycle that runs through a hook.
    """

    def __init__(self, attribute: str, why: str, parameter: nn.Parameter):
        self.attribute = attribute
        self.why = why
        self.collecting = False
        self.needed: int | None = None
        self._mask_name = f"{attribute}_mask"
        self._module: weakref.ref[nn.Module] | None = None
        self._listener: weakref.WeakMethod[Any] | None = None
        self._indices: tuple[Tensor, tuple[int, int], Tensor] | None = None
        self._bits: tuple[Tensor, tuple[int, int], torch.dtype, Tensor] | None = None
        self.attach(parameter)

    def attach(self, parameter: nn.Parameter) -> None:
        """Hooks a parameter, the first one or one that has replaced it."""
        self._handle = hook_gradients(parameter, self)

    def detach(self) -> None:
        self._handle.remove()

    @property
    def module(self) -> Any:
        module = self._module() if self._module is not None else None
        if module is None:
            raise RuntimeError(f"the module that held the masked parameter {self.attribute} is gone")
        return module

    @module.setter
    def module(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter as the module has it now, hooked."""
        parameter = self.module._parameters[self.attribute]
        hooks = parameter._post_accumulate_grad_hooks
        if self._is_ours(parameter) and (hooks is None or self._handle.id not in hooks):
            self.attach(parameter)
        return parameter

    def _is_ours(self, parameter: Tensor) -> bool:
        """Not the gathered parameter that FSDP2 puts in the place of the sharded one while layers compute."""
        return is_sharded(parameter) == is_sharded(self.module._buffers[self._mask_name])

    @property
    def mask(self) -> Tensor:
        """As far as this process holds it."""
        return local(self.module._buffers[self._mask_name])

    @property
    def _version(self) -> tuple[int, int]:
        """Changes whenever the mask does; operators of a DTensor do not count in what it holds."""
        return self.module._buffers[self._mask_name]._version, self.mask._version

    def listen(self, listener: GradientListener | None) -> None:
        self._listener = None if listener is None else weakref.WeakMethod(listener)  # type: ignore[arg-type]

    def bits(self, dtype: torch.dtype) -> Tensor:
        """All bits set where a position is active, none elsewhere, as wide as `dtype`.

        An AND with these is exact for infinities and NaN, and in torch 2.14 six times faster than masked_fill_.
        """
        mask, version = self.mask, self._version
        known = self._bits
        if known is None or known[0] is not mask or known[1] != version or known[2] != dtype:
            self._bits = known = (mask, version, dtype, -mask.to(_BITS_DTYPE[dtype.itemsize]))
        return known[3]

    @property
    def indices(self) -> Tensor:
        """Active positions, ascending; found once for each topology."""
        mask, version = self.mask, self._version
        known = self._indices
        if known is None or known[0] is not mask or known[1] != version:
            self._indices = known = (mask, version, mask.reshape(-1).nonzero().squeeze(1))
        return known[2]

    def zero_inactive(self, tensor: Tensor) -> None:
        bits = self.bits(tensor.dtype)
        local(tensor).detach().view(bits.dtype).bitwise_and_(bits)

    def __call__(self, parameter: Tensor) -> None:
        gradient = local(parameter.grad)
        if gradient is None or not self._is_ours(parameter):
            return
        listener = self._listener() if self._listener is not None else None
        if listener is not None:
            listener(gradient.detach() if gradient.requires_grad else gradient)
        self.zero_inactive(gradient)

    def __reduce__(self) -> tuple[Any, ...]:
        module = self.module
        return GradientMask, (self.attribute, self.why, module._parameters[self.attribute]), {"module": module}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.module = state["module"]


class MaskedWeight(SparseWeight):
    """A sparse weight in masked storage."""

    storage = "masked"
    writes_after_listener = 1

    @property
    def _gradient_mask(self) -> GradientMask:
        return self.module.__dict__[MARK][self.attribute]

    @property
    def why(self) -> str:  # type: ignore[override]
        return self._gradient_mask.why

    @property
    def mask(self) -> Tensor:
        """Boolean buffer of the dense shape, True where a weight is active; of a sharded one, what is here of it."""
        return self._gradient_mask.mask

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that the optimizer trains, dense."""
        return self._gradient_mask.parameter

    @property
    def gradient(self) -> Tensor | None:
        return local(self.parameter.grad)

    @property
    def buffers(self) -> tuple[str, ...]:
        return (f"{self.attribute}_mask",)

    @property
    def shape(self) -> torch.Size:
        return self.mask.shape

    @property
    def active(self) -> int:
        return int(self.mask.sum())

    @property
    def indices(self) -> Tensor:
        return self._gradient_mask.indices

    def take(self, tensor: Tensor) -> Tensor:
        return tensor.take(self.indices)

    @torch.no_grad()
    def write(self, values: Tensor) -> None:
        self.place(self.parameter, self.indices, values)

    @torch.no_grad()
    def move(
        self,
        pruned: Tensor,
        grown: Tensor,
        state: dict[str, Any],
        grown_state: Mapping[str, Tensor],
        restart: bool = False,
    ) -> None:
        parameter, mask = self.parameter, self.mask
        newcomers = ~among(grown, pruned)
        entered = grown[newcomers]
        left = pruned[~among(pruned, grown)]
        for name, tensor in per_element_state(parameter, state).items():
            self.place(tensor, pruned if restart else left, 0)
            self.place(tensor, entered, grown_state[name][newcomers] if name in grown_state else 0)
        self.place(parameter, pruned, 0)
        if parameter.grad is not None:
            self.place(parameter.grad.detach(), left, 0)
        self.place(mask, left, False)
        self.place(mask, entered, True)

    def listen(self, listener: GradientListener | None) -> None:
        self._gradient_mask.listen(listener)
        self._gradient_mask.needed = None
        self.collect(False)

    def collect(self, on: bool) -> None:
        """Notes it; autograd computes dense gradients all the time."""
        self._gradient_mask.collecting = on

    @property
    def collecting(self) -> bool:
        return self._gradient_mask.collecting

    def need_gradients(self, positions: int) -> None:
        """Says of how many positions, active ones included, the listener needs gradients; all, if nothing is said."""
        self._gradient_mask.needed = positions

    @property
    def gradient_positions(self) -> int:
        needed = self._gradient_mask.needed
        return super().gradient_positions if needed is None or not self.collecting else needed

    def new_moment(self) -> Tensor:
        return torch.zeros_like(local(self.parameter))

    def stage(self, staged: StagedGradient | None, gradient: Tensor, more: bool) -> StagedGradient:
        """Inactive entries of .grad are this micro-batch's alone, active ones the sum of all micro-batches."""
        if staged is None or staged.tensor is None or staged.tensor.dtype != gradient.dtype:
            return StagedGradient(gradient.clone())
        if more:
            bits = self._gradient_mask.bits(gradient.dtype)
            staged.tensor.view(bits.dtype).bitwise_and_(~bits)
            staged.tensor.add_(gradient)
        else:
            staged.tensor.copy_(gradient)
        return staged

    def remembered(self, staged: StagedGradient, gradient: Tensor) -> Tensor:
        assert staged.tensor is not None
        return staged.tensor

    def sample(self, size: int) -> Tensor:
        indices = self.indices
        return indices[:: max(1, indices.numel() // max(size, 1))]

    @torch.no_grad()
    def enforce(self) -> None:
        marker = self._gradient_mask
        marker.zero_inactive(marker.parameter)


def mask_parameter(module: nn.Module, attribute: str, mask: Tensor, why: str) -> None:
    """Makes a dense parameter a sparse weight in masked storage: inactive values become 0.

    Args:
        mask: bool, of the parameter's shape, True where a weight is active.
        why: what decided the storage, for the summary.
    """
    parameter = getattr(module, attribute)
    module.register_buffer(f"{attribute}_mask", torch.zeros_like(parameter, dtype=torch.bool).copy_(mask))
    marker = GradientMask(attribute, why, parameter)
    marker.module = module
    marks = module.__dict__.setdefault(MARK, {})
    if not marks:
        module.register_forward_pre_hook(_attach_again)
        module.register_load_state_dict_pre_hook(_expand_compressed)
    marks[attribute] = marker
    with torch.no_grad():
        marker.zero_inactive(parameter)


def _attach_again(module: nn.Module, inputs: Any) -> None:
    """Hooks parameters that have been put in the place of others, as load_state_dict(assign=True) does."""
    if not torch.compiler.is_compiling():
        for marker in module.__dict__.get(MARK, {}).values():
            marker.parameter  # noqa: B018


def _expand_compressed(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, *reports: Any
) -> None:
    """Lets a masked layer load the state of a compressed one."""
    indices, values = state_dict.get(prefix + "indices"), state_dict.get(prefix + "weight")
    if (
        indices is None
        or values is None
        or "weight" not in module.__dict__.get(MARK, {})
        or values.shape != (indices.numel(), 1)
    ):
        return
    del state_dict[prefix + "indices"]
    state_dict.pop(prefix + "tuned", None)
    shape = module._parameters["weight"].shape  # type: ignore[union-attr]
    dense, mask = values.new_zeros(shape.numel()), values.new_zeros(shape.numel(), dtype=torch.bool)
    dense[indices.long()] = values.squeeze(1)
    mask[indices.long()] = True
    state_dict[prefix + "weight"], state_dict[prefix + "weight_mask"] = dense.view(shape), mask.view(shape)


def unmask_parameter(weight: MaskedWeight) -> None:
    """Turns a masked weight back into a plain dense parameter, with zeros where it was inactive."""
    marks = weight.module.__dict__[MARK]
    weight.enforce()
    marks.pop(weight.attribute).detach()
    if not marks:
        del weight.module.__dict__[MARK]
        _remove(weight.module._forward_pre_hooks, _attach_again)
        _remove(weight.module._load_state_dict_pre_hooks, _expand_compressed)
    delattr(weight.module, f"{weight.attribute}_mask")


def _remove(hooks: Any, function: Any) -> None:
    for key in [key for key, hook in hooks.items() if getattr(hook, "hook", hook) is function]:
        del hooks[key]
