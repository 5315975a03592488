"""Compressed storage: the parameter is the vector of active values, and the layer holds their positions.

Gradient, optimizer state and traffic between machines are then as small as the network. The layers are those of
`regrow.nn`; here is how their active sets move, and how the gradient of their missing weights is had when it is asked
for: by one dense weight-gradient pass beside the sparse one.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regrow.nn import SparseLayer, SparseLinear

from .base import GradientListener, SparseWeight, among, hook_gradients, per_element_state
from .staged import StagedGradient

__all__ = ["CompressedWeight"]


class CompressedWeight(SparseWeight):
    """A sparse weight in compressed storage: the `weight` of a SparseLinear or SparseConv2d, shape (active, 1)."""

    storage = "compressed"
    writes_after_listener = 0
    module: Any

    def __init__(self, name: str, module: SparseLayer, attribute: str = "weight"):
        super().__init__(name, module, attribute)
        self.window_batch: int | None = None
        self._listener: GradientListener | None = None
        self._handle: Any = None
        self._passes: dict[int, StagedGradient] = {}
        """What backward passes under way have added up, by their number; .grad has not been accumulated yet."""

    @property
    def why(self) -> str:  # type: ignore[override]
        return self.module.why

    @property
    def buffers(self) -> tuple[str, ...]:
        return "indices", "tuned", "digest"

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

    def listen(self, listener: GradientListener | None) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self.collect(False)
        if listener is None:
            return
        weak = weakref.WeakMethod(listener)  # type: ignore[arg-type]

        def hook(parameter: Tensor) -> None:
            alive = weak()
            if alive is not None and parameter.grad is not None:
                alive(parameter.grad.detach() if parameter.grad.requires_grad else parameter.grad)

        self._handle = hook_gradients(self.parameter, hook)

    def collect(self, on: bool) -> None:
        self.module.on_backward = self._dense_pass if on else None
        self._passes = {}

    @property
    def collecting(self) -> bool:
        return self.module.on_backward is not None

    @property
    def stages_products(self) -> bool:
        return isinstance(self.module, SparseLinear)

    @torch.no_grad()
    def _dense_pass(self, input: Tensor, grad_output: Tensor) -> None:
        """The gradient of all positions, from `window_batch` examples of the batch and scaled up to it."""
        if not self.parameter.requires_grad:
            return
        linear = self.stages_products
        if linear:
            input, grad_output = (tensor.reshape(-1, tensor.size(-1)) for tensor in (input, grad_output))
        batch, part = input.size(0), self.window_batch
        if part is not None and part < batch:
            input, grad_output = input[:part], grad_output[:part] * (batch / part)
        if linear:
            self._of_this_pass().add_product(grad_output, input)
        else:
            self._of_this_pass().add(self.module.dense_weight_grad(input, grad_output))

    def _of_this_pass(self) -> StagedGradient:
        """What the backward pass under way has added up; it ends with the pass, which need not reach the parameter."""
        number = torch._C._current_graph_task_id()
        if number not in self._passes:

            def end() -> None:
                self._passes.pop(number, None)

            self._passes[number] = StagedGradient()
            torch.autograd.Variable._execution_engine.queue_callback(end)  # type: ignore[attr-defined]
        return self._passes[number]

    def new_moment(self) -> Tensor:
        return torch.zeros(self.shape, dtype=self.parameter.dtype)

    def stage(self, staged: StagedGradient | None, gradient: Tensor, more: bool) -> StagedGradient | None:
        added = self._passes.pop(torch._C._current_graph_task_id(), None)
        if staged is None or not more:
            return added
        if added is not None:
            staged.merge(added)
        return staged

    def remembered(self, staged: StagedGradient, gradient: Tensor) -> Tensor:
        return gradient.clone()  # the dense pass rounds differently, and a sub-batch has another gradient

    def sample(self, size: int) -> Tensor:
        return torch.arange(0, self.active, max(1, self.active // size))

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which listen by themselves."""
        return self.__dict__ | {"_listener": None, "_handle": None, "_passes": {}}

    def check(self) -> None:
        self.module._check_identity()

    def enforce(self) -> None:
        """There is nothing inactive."""
