"""Gated weights with noise: in training each step computes with a random draw of w, in evaluation with its mean."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regrow.distributed import same_generator
from regrow.topology.random import seeded_generator

from .gated import GatedUpdater
from .layer_view import is_finite

__all__ = ["NoisyUpdater"]


class NoisyUpdater(GatedUpdater):
    """A `GatedUpdater` whose weights are drawn anew in each step, where a module is in training mode.

    The draw is the same in all forward passes of a step, so that gradients may be accumulated. Modules draw when they
    run: outside a training step the model has the weights of evaluation.

    Args:
        model: as in `GatedUpdater`; not compiled.
        optimizer: as in `GatedUpdater`.
        total_steps: as in `GatedUpdater`.
        update_every: as in `GatedUpdater`.
        density: as in `GatedUpdater`.
        end: as in `GatedUpdater`.
        seed: seed of the noise; None draws one from torch's global generator.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        density: float,
        end: float,
        seed: int | None,
    ):
        self._noise: dict[str, Tensor] = {}
        super().__init__(model, optimizer, total_steps=total_steps, update_every=update_every, density=density, end=end)
        self._generator = same_generator(seeded_generator(seed), self._device)
        self._draw()

    @abstractmethod
    def _noise_of(self, uniform: Tensor) -> Tensor:
        """The noise of a step from uniform numbers in (0, 1), of the weight's shape."""

    @abstractmethod
    def _drawn(self, name: str, theta: Tensor) -> Tensor:
        """Returns w as training computes with it, with the step's noise."""

    def _draw(self) -> None:
        for name, weight in self._weights.items():
            uniform = torch.rand(weight.shape, generator=self._generator, dtype=torch.float64).clamp_(1e-7, 1 - 1e-7)
            self._noise[name] = self._noise_of(uniform).to(weight.parameter)

    def _hang(self) -> None:
        super()._hang()
        for name, weight in self._weights.items():
            self._hooks.append(weight.module.register_forward_pre_hook(_Swap(self, name)))

    @torch.no_grad()
    def _swap(self, name: str, training: bool) -> None:
        """Puts the weights of training or of evaluation into a module that is about to run."""
        if self._has_gates:
            weight, theta = self._masked()[name], self._shadow[name]
            if not is_finite(weight.parameter):
                return  # what is broken shows, and the next update says so
            wanted = self._drawn(name, theta) if training else self._shown(name, theta)
            if not torch.equal(weight.parameter, wanted):  # a write would cost backward passes that are to come
                weight.parameter.copy_(wanted)

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        super()._after_step(optimizer, args, kwargs)
        if self._has_gates:
            self._draw()

    def _own_state(self) -> dict[str, Any]:
        return super()._own_state() | {"noise": dict(self._noise), "generator": self._generator.get_state()}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        super()._load_own_state(state)
        for name, noise in self._noise.items():
            noise.copy_(state["noise"][name])
        self._generator.set_state(state["generator"].cpu())


class _Swap:
    """A forward pre-hook; copies and pickles of the module hold one that does nothing."""

    def __init__(self, updater: NoisyUpdater | None = None, name: str = ""):
        self._updater = None if updater is None else weakref.ref(updater)
        self._name = name

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        updater = None if self._updater is None else self._updater()
        if updater is not None and not torch.compiler.is_compiling():
            updater._swap(self._name, module.training and torch.is_grad_enabled())

    def __reduce__(self) -> tuple[Any, ...]:
        return _Swap, ()
