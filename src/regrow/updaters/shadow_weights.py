"""Shadow weights: values of inactive weights that are kept and trained, for methods that let them become active again.

Outside the optimizer's step the parameter is as sparse as any: its inactive weights are 0, and so are their gradients.
Before the optimizer steps, shadow weights and gradients are put into it, and taken out again afterwards. So a model in
training can be saved, measured and made dense like any other, and the optimizer's state of shadow weights is its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import regrow.topology as topology
from regrow.distributed import assert_ranks_agree, is_distributed
from regrow.momentum.collector import MomentumCollector
from regrow.momentum.rules import LastGradient
from regrow.optimizers.hooks import grad_scale_of, was_skipped
from regrow.weights import MaskedWeight, ShardedWeight

from .base import MovingUpdater, check_steps, row_of
from .layer_view import is_finite
from .plan import check_finite

__all__ = ["ShadowWeightUpdater", "largest_mask"]


class ShadowWeightUpdater(MovingUpdater):
    """An updater with shadow weights; methods say which positions are active after an update.

    Args:
        model: masked; the values that it has in inactive positions when the updater is made are their hidden ones.
        optimizer: as in `ComposedUpdater`.
        total_steps: as in `ComposedUpdater`.
        update_every: as in `ComposedUpdater`.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, *, total_steps: int, update_every: int | None
    ):
        check_steps(total_steps, update_every)
        super().__init__(model, optimizer)
        for name, weight in self._weights.items():
            if isinstance(weight, ShardedWeight):
                raise ValueError(f"{type(self).__name__} keeps shadow weights, but {name} is sharded; do not shard it")
            if not isinstance(weight, MaskedWeight):
                raise ValueError(
                    f"{type(self).__name__} keeps shadow weights, but {name} is stored compressed; use "
                    "sparsify(model, 1.0, storage='masked')"
                )
        if isinstance(self.optimizer, torch.optim.LBFGS):
            raise ValueError(
                f"{type(self).__name__} puts shadow weights into the model for a step, but LBFGS evaluates "
                "the model several times in a step; use SGD or Adam, or a method without shadow weights"
            )
        self.total_steps, self.update_every = total_steps, update_every
        self._common_factor = 1.0
        self._shadow = {name: weight.parameter.detach().clone() for name, weight in self._weights.items()}

    def _attach(self) -> None:
        """Hangs on the model and the optimizer; the last thing that a constructor does."""
        every = self.update_every
        self._gradients = {
            name: MomentumCollector(weight, LastGradient, None, update_every=every)
            for name, weight in self._weights.items()
        }
        self._alignment.keeps_inactive = True
        self._hang()

    @abstractmethod
    def _active_after_update(
        self, values: Mapping[str, Tensor], active: Mapping[str, Tensor]
    ) -> dict[str, Tensor] | None:
        """Which positions are active from now on, bool, of the dense shape; None: no update this time.

        Args:
            values: values of all positions, shadow weights included.
            active: which positions are active now.
        """

    def _gradient(self, name: str, gradient: Tensor, values: Tensor, scale: float) -> Tensor:
        """Returns what the optimizer is to see, of the gradient of all positions and their values.

        Args:
            scale: factor by which a fused optimizer still divides gradients.
        """
        return gradient

    def _after(self, name: str, before: Tensor, after: Tensor) -> Tensor:
        """The values of all positions after a step of the optimizer, which made `after` of shadow weights `before`."""
        return after

    def _shown(self, name: str, values: Tensor) -> Tensor:
        """The values with which the network computes where it is active, of the values that are trained."""
        return values

    def expect_update(self, after: int) -> None:
        """Does nothing: gradients of all positions are available in every step."""

    def update(self) -> list[dict[str, Any]]:
        """Updates the topology now; called by itself where `update_every` is given.

        Returns:
            The rows added to `history`, one a layer. Empty, and nothing changes, once updates have ended.

        Raises:
            FloatingPointError: a weight, hidden or not, is NaN or infinite; nothing is changed.
            RuntimeError: before the first optimizer step.
        """
        if self.step >= self.total_steps:
            return []
        if self.step == 0:
            raise RuntimeError("update() was called before the first optimizer step; take a step first")
        values = {name: self._values(name) for name in self._weights}
        check_finite([f"{name}: weights" for name, v in values.items() if not is_finite(v)], self.step)
        chosen = self._active_after_update(values, {name: w.mask for name, w in self._masked().items()})
        if chosen is None:
            return []
        rows = [self._show(name, chosen[name], values[name]) for name in self._weights]
        self._note_update(rows)
        assert_ranks_agree(self._weights, self.step)
        return rows

    def remove(self) -> None:
        super().remove()
        for one in self._gradients.values():
            one.close()

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs besides the state of model and optimizer: only tensors and plain values."""
        state = {"step": self.step, "history": [dict(row) for row in self.history], "hidden": dict(self._shadow)}
        return self._origin() | state | self._own_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state_dict()`; load the model and the optimizer first.

        Raises:
            ValueError: the state is that of another model or method; nothing is changed.
        """
        self._check_origin(state, {"step", "history", "hidden", *self._own_state()})
        self.step = state["step"]
        self.history = [dict(row) for row in state["history"]]
        for name, hidden in self._shadow.items():
            hidden.copy_(state["hidden"][name])
        self._load_own_state(state)

    def _own_state(self) -> dict[str, Any]:
        """Returns what a method adds to the state; methods that add something say how it is loaded."""
        return {}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        """Loads what `_own_state` gave."""

    def _masked(self) -> dict[str, MaskedWeight]:
        return {name: weight for name, weight in self._weights.items() if isinstance(weight, MaskedWeight)}

    def _values(self, name: str) -> Tensor:
        """The values of all positions: those of the parameter where it is active, hidden ones elsewhere."""
        weight = self._masked()[name]
        return torch.where(weight.mask, weight.parameter.detach(), self._shadow[name])

    @torch.no_grad()
    def _before_step(self) -> None:
        """Puts shadow weights and their gradients into the parameters."""
        super()._before_step()
        if is_distributed():
            for one in self._gradients.values():
                one.average_staged()
        factors = [f for one in self._gradients.values() if (f := one.measure()) is not None]
        self._common_factor = factors[0] if factors else 1.0
        scale = grad_scale_of(self.optimizer)
        for name, weight in self._masked().items():
            values = self._values(name)
            weight.parameter.copy_(values)
            gradient = self._gradients[name].staged(self._common_factor)
            if gradient is not None and weight.parameter.grad is not None:
                seen = torch.where(weight.mask, weight.parameter.grad, gradient)
                weight.parameter.grad.copy_(self._gradient(name, seen, values, scale))

    def _after_backward(self) -> None:
        for one in self._gradients.values():
            one.backward_ended()

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        skipped = was_skipped(optimizer)
        for name, weight in self._masked().items():
            parameter = weight.parameter
            values = trained = parameter.detach()
            if not skipped:
                values = self._after(name, self._shadow[name], trained)
                self._shadow[name].copy_(values)
            if (shown := self._shown(name, values)) is not trained:
                parameter.copy_(shown)
            weight.enforce()
            if parameter.grad is not None:
                parameter.grad.masked_fill_(~weight.mask, 0)
            self._gradients[name].drop()
        self._alignment.note()
        if skipped:
            return
        self.step += 1
        if self.update_every and self.step % self.update_every == 0:
            self.update()

    @torch.no_grad()
    def _show(self, name: str, chosen: Tensor, values: Tensor) -> dict[str, Any]:
        """Makes the chosen positions the active ones of a layer."""
        weight = self._masked()[name]
        pruned = (weight.mask & ~chosen).reshape(-1).nonzero().squeeze(1)
        grown = (chosen & ~weight.mask).reshape(-1).nonzero().squeeze(1)
        self._shadow[name].copy_(values)
        weight.move(pruned, grown, {}, {})  # the optimizer's state of shadow weights stays as it is
        weight.write(self._shown(name, values).take(weight.indices))
        return row_of(self.step, 0.0, name, pruned.numel(), grown.numel(), weight.active, 0.0)


def largest_mask(scores: Tensor, count: int) -> Tensor:
    """The `count` largest scores, bool, of the shape of the scores; ties to the lower position."""
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[topology.largest(scores.reshape(-1), count)] = True
    return mask.view(scores.shape)
