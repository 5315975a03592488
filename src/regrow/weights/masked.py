"""Masked storage: the dense parameter, and a boolean buffer `<parameter>_mask` that says which positions are active.

It works for any layer on any device. `state_dict()` holds the topology, because the mask is a buffer of the module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regrow.nn._state import LAST_UPDATE, expand_compressed, is_compressed_state, warn_dense_state

from .activity import ActivityHook, activity_of, is_known
from .base import SparseWeight, Switch, among, is_sharded, local, per_element_state
from .gradient_mask import MARK, GradientMask, take_left_behind
from .passes import Passes
from .staged import StagedGradient
from .tap import GradientListener, GradientTap

__all__ = ["MaskedTap", "MaskedWeight", "adopt_masks", "mask_parameter", "unmask_parameter"]


class MaskedWeight(SparseWeight):
    """A sparse weight in masked storage."""

    storage = "masked"

    @property
    def _gradient_mask(self) -> GradientMask:
        return self.module.__dict__[MARK][self.attribute]

    @property
    def why(self) -> str:  # type: ignore[override]
        return self._gradient_mask.why

    @property
    def switch(self) -> Switch | None:  # type: ignore[override]
        return self._gradient_mask.switch

    @property
    def reduces_own_gradient(self) -> bool:  # type: ignore[override]
        return self.switch is not None

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
        fresh = torch.ones_like(grown, dtype=torch.bool) if restart else ~among(grown, pruned)
        entered = grown[fresh]
        left = pruned[~among(pruned, grown)]
        for name, tensor in per_element_state(parameter, state).items():
            self.place(tensor, pruned if restart else left, 0)
            self.place(tensor, entered, grown_state[name][fresh] if name in grown_state else 0)
        self.place(parameter, pruned, 0)
        if parameter.grad is not None:
            self.place(parameter.grad.detach(), left, 0)
        self.place(mask, left, False)
        self.place(mask, entered, True)

    @property
    def topology(self) -> tuple[Tensor, Any]:
        return self._gradient_mask.topology

    @property
    def last_update(self) -> int:
        return self._gradient_mask.last_update

    @last_update.setter
    def last_update(self, step: int) -> None:
        self._gradient_mask.last_update = step

    @torch.no_grad()
    def realign(self, before: Tensor, state: dict[str, Any]) -> None:
        for tensor in per_element_state(self.parameter, state).values():
            self._gradient_mask.zero_inactive(tensor)

    def check(self) -> None:
        self.parameter  # noqa: B018

    def stray(self) -> int:
        marker = self._gradient_mask
        return int(torch.count_nonzero(local(marker.parameter).detach().masked_fill(marker.mask, 0)))

    def stray_in_sample(self, size: int) -> bool:
        sample = self._gradient_mask.inactive_sample(size)
        return bool(local(self.parameter).detach().take(sample).any())

    @property
    def collecting(self) -> bool:
        return self._gradient_mask.collecting

    @property
    def gradient_positions(self) -> int:
        needed = self._gradient_mask.needed
        return super().gradient_positions if needed is None or not self.collecting else needed

    def tap(self, listener: GradientListener, window_batch: int | None = None) -> GradientTap:
        return MaskedTap(self, self._gradient_mask, listener)

    def sample(self, size: int) -> Tensor:
        indices = self.indices
        return indices[:: max(1, indices.numel() // max(size, 1))]

    @torch.no_grad()
    def enforce(self) -> None:
        marker = self._gradient_mask
        marker.zero_inactive(marker.parameter)


class MaskedTap(GradientTap):
    """A tap of masked storage: autograd computes dense gradients all the time."""

    writes_after_listener = 1

    def __init__(self, weight: MaskedWeight, mask: GradientMask, listener: GradientListener):
        self._weight, self._mask = weight, mask
        self._passes = Passes()
        self._hook: Any = None
        mask.listen(listener)
        mask.needed = None
        mask.collecting = False

    def close(self) -> None:
        self._mask.listen(None)
        self._mask.needed = None
        self.collect(False)

    @property
    def collecting(self) -> bool:
        return self._mask.collecting

    def collect(self, on: bool) -> None:
        self._mask.collecting = on
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if on and self.keeps_pairs and is_known(self._weight.module, self._weight.attribute):
            self._hook = self._weight.module.register_forward_hook(ActivityHook(self._note))

    @torch.no_grad()
    def _note(self, input: Tensor, grad_output: Tensor) -> None:
        self._passes.current().add_activity(activity_of(self._weight.module, input, grad_output))

    def need(self, positions: int) -> None:
        self._mask.needed = positions

    def new_moment(self) -> Tensor:
        return torch.zeros_like(local(self._weight.parameter))

    def stage(self, staged: StagedGradient | None, gradient: Tensor, more: bool) -> StagedGradient:
        """Inactive entries of .grad are this micro-batch's alone, active ones the sum of all micro-batches."""
        before = staged
        staged = self._staged(staged, gradient, more)
        if self.keeps_pairs:
            seen = self._passes.pop()
            if before is not staged or not more:
                staged.activity = None
            staged.add_activity(None if seen is None else seen.activity)
        return staged

    def _staged(self, staged: StagedGradient | None, gradient: Tensor, more: bool) -> StagedGradient:
        if staged is None or staged.tensor is None or staged.tensor.dtype != gradient.dtype:
            return StagedGradient(gradient.clone())
        if more:
            bits = self._mask.bits(gradient.dtype)
            staged.tensor.view(bits.dtype).bitwise_and_(~bits)
            staged.tensor.add_(gradient)
        else:
            staged.tensor.copy_(gradient)
        return staged

    @torch.no_grad()
    def stage_by_hand(self, gradient: Tensor) -> StagedGradient:
        staged = StagedGradient(gradient.detach().clone())
        self._mask.zero_inactive(gradient)
        return staged

    def knows_all(self, staged: StagedGradient) -> bool:
        mask, tensor = self._mask.mask, staged.tensor
        return tensor is not None and bool(mask.all() or tensor.masked_fill(mask, 0).any())

    def remembered(self, staged: StagedGradient, gradient: Tensor) -> Tensor:
        assert staged.tensor is not None
        return staged.tensor


def mask_parameter(module: nn.Module, attribute: str, mask: Tensor, why: str) -> None:
    """Makes a dense parameter a sparse weight in masked storage: inactive values become 0.

    Args:
        mask: bool, of the parameter's shape, True where a weight is active.
        why: the reason for the storage, for the summary.
    """
    parameter = getattr(module, attribute)
    module.register_buffer(f"{attribute}_mask", torch.zeros_like(parameter, dtype=torch.bool).copy_(mask))
    marker = GradientMask(attribute, why, parameter)
    marker.module = module
    marks = module.__dict__.setdefault(MARK, {})
    if not marks:
        module.register_forward_pre_hook(_attach_again)
        module.register_load_state_dict_pre_hook(_before_loading)
        module.register_state_dict_post_hook(_note_last_update)
    marks[attribute] = marker
    with torch.no_grad():
        marker.zero_inactive(parameter)


def adopt_masks(modules: Iterable[nn.Module]) -> None:
    """Makes modules masked that other code has made from masked ones, as quantisation-aware training does.

    Such a module has another class, and the parameter, which is still hooked; the mask was left behind. Where it was
    also given the forward hooks, there is no doubt; else the first module has to be gone.
    """
    for module in modules:
        if MARK in module.__dict__:
            continue
        handed_over = any(hook is _attach_again for hook in module._forward_pre_hooks.values())
        for attribute, parameter in list(module._parameters.items()):
            marker = None if parameter is None else take_left_behind(parameter, handed_over)
            if marker is not None:
                _remove(module._forward_pre_hooks, _attach_again)
                mask_parameter(module, attribute, marker.last_mask, marker.why)


def _attach_again(module: nn.Module, inputs: Any) -> None:
    """Hooks parameters that have replaced others, as load_state_dict(assign=True) does."""
    if torch.compiler.is_compiling():
        return
    if MARK not in module.__dict__:  # quantisation-aware training took this hook to a module of its own
        adopt_masks([module])
    for marker in module.__dict__.get(MARK, {}).values():
        marker.parameter  # noqa: B018
        marker.buffer  # noqa: B018


def _note_last_update(module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    """Notes in the metadata of a state dict that the topology has a history, which the updater's state continues."""
    if steps := {name: mark.last_update for name, mark in module.__dict__.get(MARK, {}).items() if mark.last_update}:
        metadata[LAST_UPDATE] = steps


def _before_loading(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], strict: bool, *reports: Any
) -> None:
    for attribute, marker in module.__dict__.get(MARK, {}).items():
        marker.last_update = metadata.get(LAST_UPDATE, {}).get(attribute, 0)
        if attribute == "weight" and is_compressed_state(state_dict, prefix):
            if marker.switch is not None:
                marker.switch.tuned = state_dict.get(f"{prefix}tuned")
            expand_compressed(state_dict, prefix, module._parameters["weight"].shape)  # type: ignore[union-attr]
        if f"{prefix}{attribute}_mask" in state_dict:
            marker.accept()
        elif f"{prefix}{attribute}" in state_dict:
            _leave_out_inactive(state_dict, f"{prefix}{attribute}", marker)


def _leave_out_inactive(state_dict: dict[str, Any], name: str, marker: GradientMask) -> None:
    """Takes from a dense state, which has no mask, the weights that are active here, and warns."""
    values, mask = state_dict[name], marker.buffer
    if values.shape != mask.shape or is_sharded(values) or is_sharded(mask) or values.is_meta:
        return
    active = values.masked_fill(~mask.to(values.device), 0)
    if dropped := int(torch.count_nonzero(values)) - int(torch.count_nonzero(active)):
        state_dict[name] = active
        warn_dense_state(name, dropped, values.numel())


def unmask_parameter(weight: MaskedWeight) -> None:
    """Turns a masked weight back into a plain dense parameter, with the values that it has."""
    marks = weight.module.__dict__[MARK]
    marks.pop(weight.attribute).detach()
    for key in [key for key, hook in weight.module._forward_hooks.items() if isinstance(hook, ActivityHook)]:
        del weight.module._forward_hooks[key]
    if not marks:
        del weight.module.__dict__[MARK]
        _remove(weight.module._forward_pre_hooks, _attach_again)
        _remove(weight.module._load_state_dict_pre_hooks, _before_loading)
        _remove(weight.module._state_dict_hooks, _note_last_update)
    delattr(weight.module, f"{weight.attribute}_mask")


_expand_compressed = _before_loading  # its name in pickles of version 0.1

HOOKS = (_attach_again, _before_loading, _note_last_update)
"""The hooks of modules with masked weights; whole-model pickles hold them."""


def _remove(hooks: Any, function: Any) -> None:
    for key in [key for key, hook in hooks.items() if getattr(hook, "hook", hook) is function]:
        del hooks[key]
