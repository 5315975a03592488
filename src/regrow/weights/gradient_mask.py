"""GradientMask: what hangs on a parameter in masked storage, and keeps its gradient and its mask right."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from .base import Switch, hook_gradients, is_sharded, local
from .tap import GradientListener

__all__ = ["MARK", "GradientMask", "take_left_behind"]

MARK = "_regrow"
"""The attribute where a module keeps the `GradientMask` of each of its masked parameters: a dict in its `__dict__`."""

_BITS_DTYPE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class GradientMask:
    """Makes a parameter sparse in masked storage: zeroes the gradient of inactive weights once accumulated.

    So gradient clipping sees the norm of the sparse network, and the optimizer's state of inactive weights stays 0.
    It lives in the module's `__dict__`, and so survives deepcopy and pickle together with the parameter that it hooks.
    What it refers to, it refers to weakly: Python cannot see, and so not collect, a cycle that runs through a hook.

    Attributes:
        last_update: optimizer steps that had been taken at the last update of the topology; 0 before the first.
        switch: when the weight becomes compressed; None: never.
    """

    def __init__(self, attribute: str, why: str, parameter: nn.Parameter):
        self.attribute = attribute
        self.why = why
        self.collecting = False
        self.needed: int | None = None
        self.last_update = 0
        self.switch: Switch | None = None
        self._mask_name = f"{attribute}_mask"
        self._module: weakref.ref[nn.Module] | None = None
        self._listener: weakref.WeakMethod[Any] | None = None
        self._listened: weakref.ref[nn.Parameter] | None = None
        self._seen: _Seen | None = None
        self._indices: tuple[Tensor, tuple[int, int], Tensor] | None = None
        self._sample: tuple[Tensor, tuple[int, int], Tensor] | None = None
        self._bits: tuple[Tensor, tuple[int, int], torch.dtype, Tensor] | None = None
        self.attach(parameter)

    def attach(self, parameter: nn.Parameter) -> None:
        """Hooks a parameter, the first one or one that has replaced it, once."""
        hooks = parameter._post_accumulate_grad_hooks
        if hooks is None or self not in hooks.values():
            hook_gradients(parameter, self)

    def detach(self) -> None:
        hooks = self._own()._post_accumulate_grad_hooks or {}
        for key in [key for key, hook in hooks.items() if hook is self]:
            del hooks[key]

    @property
    def module(self) -> Any:
        module = self._module() if self._module is not None else None
        if module is None:
            raise RuntimeError(f"the module that held the masked parameter {self.attribute} no longer exists")
        return module

    @module.setter
    def module(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter as the module has it now, hooked.

        `torch.func.functional_call` puts other tensors in its place for one forward pass. Those that are no parameters
        cannot be hooked, and need not be: their gradients flow on, or are whoever called it wants.
        """
        parameter = self._own()
        if self._is_ours(parameter) and isinstance(parameter, nn.Parameter):
            self.attach(parameter)
        return parameter

    def _own(self) -> nn.Parameter:
        parameter = self.module._parameters.get(self.attribute)
        if parameter is None:
            raise RuntimeError(
                f"{self.attribute} of a {type(self.module).__name__} is sparse, but no longer a parameter: "
                "torch.nn.utils.prune, a parametrization or weight_norm replaced it after sparsify. Do that before "
                "sparsify (regrow.export.from_prune reads pruned models), or on regrow.densify(model)"
            )
        return parameter

    def _is_ours(self, parameter: Tensor) -> bool:
        """Returns whether this is the module's parameter, not the gathered one that FSDP2 uses while layers compute."""
        return is_sharded(parameter) == is_sharded(self.module._buffers[self._mask_name])

    @property
    def buffer(self) -> Tensor:
        """The mask as the module has it, with the content that it shall have."""
        mask = self.module._buffers[self._mask_name]
        if self._seen is None or mask is not self._seen.mask:
            self._look_at(mask)
        return mask

    def _look_at(self, mask: Tensor) -> None:
        """Notices a mask that has taken the place of another, and fills one that `to_empty` left without content.

        A mask may be replaced with its content (`.to`), or by another one (an assignment). Only where the same
        parameter got new memory as well has nobody chosen the content, so the old one is put back. `functional_call`
        replaces both for one forward pass, by objects of its own, which are left alone.
        """
        parameter, seen = self._own(), self._seen
        if not isinstance(parameter, nn.Parameter):
            return
        lost = seen is not None and seen.lost_content(parameter, mask)
        if seen is not None and lost:
            mask.copy_(seen.mask)
        if seen is None or seen.is_of(parameter):
            self._seen = _Seen(mask, parameter)
        if lost:
            self.zero_inactive(parameter)

    def accept(self) -> None:
        """Accepts whatever mask the module has at the next check."""
        self._seen = None

    @property
    def mask(self) -> Tensor:
        """Returns the part of the mask that this process holds."""
        return local(self.buffer)

    @property
    def topology(self) -> tuple[Tensor, tuple[int, int]]:
        """The mask and its version, which changes with it; operators of a DTensor do not count in what it holds."""
        buffer = self.buffer
        return buffer, (buffer._version, local(buffer)._version)

    def _mask_and_version(self) -> tuple[Tensor, tuple[int, int]]:
        buffer, version = self.topology
        return local(buffer), version

    def listen(self, listener: GradientListener | None) -> None:
        """The listener hears the parameter of now, not one that takes its place for a while and lives beside it."""
        self._listener = None if listener is None else weakref.WeakMethod(listener)
        self._listened = weakref.ref(self.parameter)

    def _is_heard(self, parameter: Tensor) -> bool:
        listened = self._listened() if self._listened is not None else None
        if listened is None:  # it has been replaced for good, as Accelerate does
            self._listened = weakref.ref(parameter)  # type: ignore[arg-type]
        return listened is None or listened is parameter

    def bits(self, dtype: torch.dtype) -> Tensor:
        """Returns all bits set where a position is active, none elsewhere, as wide as `dtype`.

        An AND with these is exact for infinities and NaN, and in torch 2.14 six times faster than masked_fill_.
        """
        mask, version = self._mask_and_version()
        known = self._bits
        if known is None or known[0] is not mask or known[1] != version or known[2] != dtype:
            self._bits = known = (mask, version, dtype, -mask.to(_BITS_DTYPE[dtype.itemsize]))
        return known[3]

    @property
    def indices(self) -> Tensor:
        """Active positions, ascending; found once for each topology."""
        mask, version = self._mask_and_version()
        known = self._indices
        if known is None or known[0] is not mask or known[1] != version:
            self._indices = known = (mask, version, mask.reshape(-1).nonzero().squeeze(1))
        return known[2]

    def inactive_sample(self, size: int) -> Tensor:
        """About `size` flat inactive positions, evenly spread; found once for each topology."""
        mask, version = self._mask_and_version()
        known = self._sample
        if known is None or known[0] is not mask or known[1] != version:
            inactive = (~mask).reshape(-1).nonzero().squeeze(1)
            self._sample = known = (mask, version, inactive[:: max(1, inactive.numel() // size)].clone())
        return known[2]

    def zero_inactive(self, tensor: Tensor) -> None:
        bits = self.bits(tensor.dtype)
        local(tensor).detach().view(bits.dtype).bitwise_and_(bits)

    def __call__(self, parameter: Tensor) -> None:
        gradient = local(parameter.grad)
        if gradient is None or not self._is_ours(parameter) or self._is_substitute(parameter):
            return
        listener = self._listener() if self._listener is not None else None
        if listener is not None and self._is_heard(parameter):
            listener(gradient.detach() if gradient.requires_grad else gradient)
        self.zero_inactive(gradient)

    def _is_substitute(self, parameter: Tensor) -> bool:
        """Returns whether it was the module's parameter for one forward pass only, as `functional_call` makes it."""
        return not is_sharded(parameter) and self.module._parameters.get(self.attribute) is not parameter

    def is_left_behind(self, parameter: nn.Parameter) -> bool:
        """Returns whether the module is gone, or has let the parameter go."""
        module = self._module() if self._module is not None else None
        return module is None or module._parameters.get(self.attribute) is not parameter

    @property
    def has_mask(self) -> bool:
        """Returns whether there is a `last_mask`."""
        return self._seen is not None

    @property
    def last_mask(self) -> Tensor:
        """The mask that was seen last, even if the module is gone."""
        assert self._seen is not None
        return self._seen.mask

    def __reduce__(self) -> tuple[Any, ...]:
        module, parameter = self.module, self._own()
        state = {"module": module, "seen": (self.buffer, parameter), "last_update": self.last_update}
        state["switch"] = self.switch
        return GradientMask, (self.attribute, self.why, parameter), state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.module = state["module"]
        self.last_update = state.get("last_update", 0)
        self.switch = state.get("switch")
        if "seen" in state:  # of models that were pickled before it was kept, it is looked at later
            self._seen = _Seen(*state["seen"])


class _Seen:
    """A mask as it was last seen in a module, and the parameter and its memory beside it."""

    def __init__(self, mask: Tensor, parameter: nn.Parameter):
        self.mask = mask
        self._parameter = weakref.ref(parameter)
        self._memory = _memory(parameter)

    def is_of(self, parameter: nn.Parameter) -> bool:
        """Returns whether it was seen beside this parameter, or beside what FSDP2 has sharded since."""
        return self._parameter() is parameter or is_sharded(parameter)

    def lost_content(self, parameter: nn.Parameter, mask: Tensor) -> bool:
        """Returns whether the mask is memory that has got no content, as `to_empty` leaves it."""
        if not self.is_of(parameter) or self._memory == _memory(parameter):
            return False
        whole = not (mask.is_meta or self.mask.is_meta or is_sharded(mask) or is_sharded(self.mask))
        return whole and not torch.equal(self.mask.to(mask.device), mask)


def _memory(parameter: Tensor) -> tuple[torch.device, int]:
    return parameter.device, local(parameter).data_ptr()


def take_left_behind(parameter: nn.Parameter, surely: bool) -> GradientMask | None:
    """Removes a module's hook from a parameter that has since moved to another module; None if there is none.

    Args:
        surely: whether the parameter has gone for certain, and is not shared.
    """
    hooks = parameter._post_accumulate_grad_hooks or {}
    for key, hook in list(hooks.items()):
        if isinstance(hook, GradientMask) and hook.has_mask and (surely or hook.is_left_behind(parameter)):
            del hooks[key]
            return hook
    return None
