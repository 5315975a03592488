"""Compressed storage: the parameter is the vector of active values, and the layer holds their positions.

Gradient, optimizer state and traffic between machines are then as small as the network. The layers are those of
`regrow.nn`; here is how their active sets move, and how the gradient of their inactive weights is had when it is asked
for: by one dense weight-gradient pass beside the sparse one.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regrow.nn import SparseConv2d, SparseLayer, SparseLinear
from regrow.nn._state import ENTRIES
from regrow.nn.blocked import blocked_inputs, ordinary_outputs
from regrow.nn.conv2d import resolve_padding
from regrow.ops import DTYPES

from .activity import activity_of
from .base import SparseWeight, among, hook_gradients, per_element_state
from .extras import hand_over, irreplaceable
from .passes import Passes
from .staged import StagedGradient
from .storage import Storage, register, replace_module
from .tap import GradientListener, GradientTap

__all__ = ["DEFAULT_WINDOW", "CompressedStorage", "CompressedWeight", "leave_blocked"]

DEFAULT_WINDOW = 20
"""Default number of steps before an update in which compressed storage collects; docs/window.md says why."""


class CompressedWeight(SparseWeight):
    """A sparse weight in compressed storage: the `weight` of a SparseLinear or SparseConv2d, shape (active, 1)."""

    storage = "compressed"
    keeps_parameter_shape = False
    reduces_own_gradient = True
    default_window = DEFAULT_WINDOW
    module: Any

    def __init__(self, name: str, module: SparseLayer, attribute: str = "weight"):
        super().__init__(name, module, attribute)

    @property
    def why(self) -> str:  # type: ignore[override]
        return self.module.why

    @property
    def buffers(self) -> tuple[str, ...]:
        return ENTRIES

    @property
    def shape(self) -> torch.Size:
        return self.module.dense_shape

    @property
    def active(self) -> int:
        return self.module.active

    @property
    def indices(self) -> Tensor:
        return self.module.indices.long()

    def take(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(-1).clone()

    @torch.no_grad()
    def write(self, values: Tensor) -> None:
        self.parameter.copy_(values.view(-1, 1))
        self.module.accept_values()

    @torch.no_grad()
    def move(
        self,
        pruned: Tensor,
        grown: Tensor,
        state: dict[str, Any],
        grown_state: Mapping[str, Tensor],
        restart: bool = False,
    ) -> None:
        parameter: nn.Parameter = self.parameter
        before = self.indices
        leaves = among(before, pruned)
        fresh = torch.ones_like(grown, dtype=torch.bool) if restart else ~among(grown, pruned)
        stays = ~leaves if restart else ~leaves | among(before, grown)
        positions, order = torch.cat([before[stays], grown[fresh]]).sort()

        def moved(old: Tensor, entering: Tensor) -> Tensor:
            return torch.cat([old.reshape(-1)[stays], entering.to(old.dtype)])[order]

        zeros = parameter.new_zeros(int(fresh.sum()))
        for name, tensor in per_element_state(parameter, state).items():
            entering = grown_state[name][fresh] if name in grown_state else zeros
            tensor.set_(moved(tensor, entering).view(-1, 1))  # type: ignore[call-overload]
        # a weight that is pruned and grown in one update restarts at 0, though it never leaves the active set
        values = parameter.detach().clone()
        values[leaves] = 0
        self.module.set_topology(positions, moved(values, zeros))

    @property
    def topology(self) -> tuple[Tensor, Any]:
        return self.module.indices, self.module.indices._version

    @property
    def last_update(self) -> int:
        return self.module.last_update

    @last_update.setter
    def last_update(self, step: int) -> None:
        self.module.last_update = step

    @torch.no_grad()
    def realign(self, before: Tensor, state: dict[str, Any]) -> None:
        before, now = before.long(), self.indices
        old, new = among(before, now), among(now, before)
        for tensor in state.values():
            if isinstance(tensor, Tensor) and tensor.shape == (before.numel(), 1):
                moved = tensor.new_zeros(now.numel())
                moved[new] = tensor.reshape(-1)[old]
                tensor.set_(moved.view(-1, 1))  # type: ignore[call-overload]

    @property
    def collecting(self) -> bool:
        return self.module.on_backward is not None

    @property
    def gradient_positions(self) -> int:
        tap = getattr(self.module.on_backward, "__self__", None)
        needed = tap.needed if isinstance(tap, CompressedTap) else None
        return super().gradient_positions if needed is None else needed

    @property
    def stages_products(self) -> bool:
        return isinstance(self.module, SparseLinear)

    def gradient_at(self, input: Tensor, grad_output: Tensor, positions: Tensor) -> Tensor:
        return self.module.weight_grad_at(input, grad_output, positions)

    def tap(self, listener: GradientListener, window_batch: int | None = None) -> GradientTap:
        return CompressedTap(self, listener, window_batch)

    def sample(self, size: int) -> Tensor:
        return torch.arange(0, self.active, max(1, self.active // size))

    def accept_values(self) -> None:
        self.module.accept_values()

    def copy_choices(self, other: SparseWeight) -> None:
        if isinstance(other, CompressedWeight):
            tuned = other.module.tuned
            self.module.tuned = None if tuned is None else tuned.clone()

    def check(self) -> None:
        self.module._check_identity()

    def enforce(self) -> None:
        """Does nothing, because there are no inactive weights."""


class CompressedTap(GradientTap):
    """A tap of compressed storage: while it collects, a dense weight-gradient pass runs beside the sparse one."""

    def __init__(self, weight: CompressedWeight, listener: GradientListener, window_batch: int | None):
        self._weight, self._window_batch = weight, window_batch
        self.needed: int | None = None
        self.collect(False)
        weak = weakref.WeakMethod(listener)

        def hook(parameter: Tensor) -> None:
            alive = weak()
            if alive is not None and parameter.grad is not None:
                alive(parameter.grad.detach() if parameter.grad.requires_grad else parameter.grad)

        self._handle = hook_gradients(weight.parameter, hook)

    def close(self) -> None:
        self._handle.remove()
        self.collect(False)

    @property
    def collecting(self) -> bool:
        return self._weight.collecting

    def collect(self, on: bool) -> None:
        self._weight.module.on_backward = self._note if on else None
        self._passes = Passes()

    @torch.no_grad()
    def _note(self, input: Tensor, grad_output: Tensor) -> None:
        """Adds the gradient of all positions, from `window_batch` examples of the batch and scaled up to it."""
        if not self._weight.parameter.requires_grad:
            return
        linear = self._weight.stages_products
        if linear:
            input, grad_output = (tensor.reshape(-1, tensor.size(-1)) for tensor in (input, grad_output))
        batch, part = input.size(0), self._window_batch
        # the part stands for the whole batch: sums of gradients are as large as those of all examples, on average
        if part is not None and part < batch:
            input, grad_output = input[:part], grad_output[:part] * (batch / part)
        staged = self._passes.current()
        if self.keeps_pairs:
            staged.pairs.append((input.clone(), grad_output.clone()))  # a caller may use its batch again
            staged.add_activity(activity_of(self._weight.module, input, grad_output))
        elif linear:
            # a product is multiplied out straight into the momentum, so that no gradient of dense size is made
            staged.add_product(grad_output, input)
        else:
            staged.add(self._weight.module.dense_weight_grad(input, grad_output, winograd=self.winograd))

    def need(self, positions: int) -> None:
        self.needed = positions

    def new_moment(self) -> Tensor:
        return torch.zeros(self._weight.shape, dtype=self._weight.parameter.dtype)

    def stage(self, staged: StagedGradient | None, gradient: Tensor, more: bool) -> StagedGradient | None:
        added = self._passes.pop()
        if staged is None or not more:
            return added
        if added is not None:
            staged.merge(added)
        return staged

    def remembered(self, staged: StagedGradient, gradient: Tensor) -> Tensor:
        return gradient.clone()  # the dense pass rounds differently, and a sub-batch has another gradient


class CompressedStorage(Storage):
    """Layers of `regrow.nn` that replace nn.Linear and nn.Conv2d on the CPU."""

    name = "compressed"
    densest_by_itself = 0.3
    makes_from_meta = True

    def refuses(self, module: nn.Module, parameter: nn.Parameter, elsewhere: Mapping[int, str]) -> str | None:
        """Refuses all but modules of exactly the type nn.Linear or nn.Conv2d (groups 1, zero padding), on the CPU or
        the meta device, in float32 or float64, that nobody else reads and whose replacement loses nothing."""
        kind = type(module)
        if kind not in (nn.Linear, nn.Conv2d):
            own = isinstance(module, nn.Linear | nn.Conv2d)  # a subclass may bear the same name, and compute otherwise
            return f"{kind.__module__ + '.' if own else ''}{kind.__name__} has no compressed form"
        if parameter.device.type not in ("cpu", "meta"):
            return f"on {parameter.device.type}, compressed runs on the CPU"
        if parameter.dtype not in DTYPES:
            return f"{parameter.dtype} has no compressed form".replace("torch.", "")
        if isinstance(module, nn.Conv2d) and (reason := _unserved(module)):
            return reason
        if reason := elsewhere.get(id(parameter)) or elsewhere.get(id(module)):
            return reason
        return irreplaceable(module, parameter)  # type: ignore[arg-type]

    def attach(self, model: nn.Module, module: Any, attribute: str, indices: Tensor, why: str) -> nn.Module:
        kind: Any = SparseLinear if isinstance(module, nn.Linear) else SparseConv2d
        layer = kind.from_dense(module, positions=indices)
        layer.why = why
        hand_over(module, layer)
        return replace_module(model, module, layer)

    def densify(self, model: nn.Module, weight: SparseWeight) -> nn.Module:
        dense = weight.module.to_dense()  # type: ignore[operator]
        hand_over(weight.module, dense)
        return replace_module(model, weight.module, dense)

    def attributes(self, module: nn.Module) -> Iterable[str]:
        return ("weight",) if isinstance(module, SparseLayer) else ()

    def weight(self, name: str, module: Any, attribute: str) -> SparseWeight:
        return CompressedWeight(name, module, attribute)

    def state_keys(self, name: str) -> tuple[str, ...]:
        return tuple(f"{name.removesuffix('weight')}{entry}" for entry in ENTRIES)

    def indices_in(self, state: Mapping[str, Any], name: str) -> Tensor | None:
        indices = state.get(f"{name.removesuffix('weight')}indices")
        return None if indices is None else indices.long()

    def state_of(self, name: str, values: Tensor, indices: Tensor, shape: Iterable[int]) -> dict[str, Tensor]:
        return {name: values.view(-1, 1), f"{name.removesuffix('weight')}indices": indices}

    def finish(self, model: nn.Module) -> None:
        keep_blocked(model)

    def leave(self, model: nn.Module) -> None:
        leave_blocked(model)


def _unserved(module: nn.Conv2d) -> str | None:
    if module.groups != 1:
        return "grouped"
    if module.padding_mode != "zeros":
        return f"padding_mode {module.padding_mode}"
    try:
        resolve_padding(module.padding, module.kernel_size, module.stride, module.dilation)  # type: ignore[arg-type]
    except ValueError:
        return f"padding {module.padding}"
    return None


def keep_blocked(model: nn.Module) -> None:
    """Keeps activations in the kernels' layout from the first sparse convolution or batch norm of a network on.

    Its outputs are ordinary tensors all the same: a forward hook sees to that. A root that is itself a convolution has
    nothing behind it, and is left alone.
    """
    inside = [module for module in model.modules() if module is not model]
    convolutions = [module for module in inside if isinstance(module, SparseConv2d)]
    if not convolutions:
        return
    for layer in convolutions:
        layer.blocked_output = True
    for module in inside:
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(blocked_inputs)
    model.register_forward_hook(ordinary_outputs, prepend=True)  # other hooks of the root see ordinary tensors


def leave_blocked(model: nn.Module) -> None:
    """Reverts `keep_blocked`."""
    for module in model.modules():
        if isinstance(module, SparseConv2d):
            module.blocked_output = False
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if hook in (blocked_inputs, ordinary_outputs):
                    del hooks[key]


register(CompressedStorage())
