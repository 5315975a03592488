"""What all updaters share: they hang on an optimizer's step hook, and keep inactive weights exactly 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from regrow.distributed import start_alike
from regrow.moments import check_shapes
from regrow.optimizers import group_of, innermost, refuse_second, trained_weights, was_skipped
from regrow.weights import shard_masks

__all__ = ["Attached", "check_shapes_of", "check_steps", "row_of"]


class Attached:
    """Hangs on the optimizer that trains a sparse model; in several processes, gives all of them rank 0's model.

    Attributes:
        step: optimizer steps seen; steps that the optimizer skipped do not count.
        history: list of dicts, one per update and layer, with step, prune_rate, name, pruned, grown, active (after the
            update) and importance.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, alone: bool = True):
        optimizer = innermost(optimizer)
        if alone:
            refuse_second(optimizer, Updating)
        self.optimizer = optimizer
        self.step = 0
        self.history: list[dict[str, Any]] = []
        shard_masks(model)
        self._weights = trained_weights(model, optimizer)
        self._hooks: list[Any] = []
        start_alike(model, self._weights, self._after_backward)

    def _hang(self) -> None:
        """Hangs on the optimizer; the last thing that a constructor does, so that a refusal changes nothing."""
        self._hooks.append(self.optimizer.register_step_post_hook(self._after_step))

    def _after_backward(self) -> None:
        """Called in several processes when a backward pass has ended, and gradients are means over ranks."""

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if not was_skipped(optimizer):
            for weight in self._weights.values():
                weight.enforce()
            self.step += 1

    @property
    def _device(self) -> torch.device:
        return next(iter(self._weights.values())).parameter.device

    def _group(self, name: str) -> Mapping[str, Any]:
        return group_of(self.optimizer, self._weights[name])

    def _origin(self) -> dict[str, Any]:
        """What a state belongs to."""
        shapes = {name: list(weight.shape) for name, weight in self._weights.items()}
        return {"updater": type(self).__name__, "shapes": shapes}

    def _check_origin(self, state: Mapping[str, Any], expected: set[str]) -> None:
        """Raises ValueError where a state is damaged, or that of another method or model."""
        if absent := ({"shapes"} | expected) - state.keys():
            raise ValueError(f"this is not the state of an updater, or it is damaged: {sorted(absent)} are missing")
        method = type(self).__name__
        if state.get("updater", method) != method:
            raise ValueError(
                f"this is the state of {state['updater']}, and the updater is {method}; make the one that was trained "
                "with, or train on without the state"
            )
        theirs = {name: tuple(shape) for name, shape in state["shapes"].items()}
        ours = {name: tuple(weight.shape) for name, weight in self._weights.items()}
        if theirs != ours:
            differing = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
            details = ", ".join(f"{name} ({theirs.get(name)} there, {ours.get(name)} here)" for name in differing)
            raise ValueError(f"this updater state belongs to another model: {details}")

    def remove(self) -> None:
        """Takes the updater off the optimizer and the model, which keeps its topology."""
        for hook in self._hooks:
            hook.remove()


class Updating(Attached):
    """An updater that changes active sets; an optimizer has one of these at most."""


def row_of(
    step: int, rate: float, name: str, pruned: int, grown: int, active: int, importance: float
) -> dict[str, Any]:
    """One line of an updater's history."""
    return {
        "step": step,
        "prune_rate": rate,
        "name": name,
        "pruned": pruned,
        "grown": grown,
        "active": active,
        "importance": importance,
    }


def check_steps(total_steps: int, update_every: int | None) -> None:
    if total_steps < 1:
        raise ValueError(f"total_steps={total_steps} must be at least 1")
    if update_every is not None and not 1 <= update_every <= total_steps:
        raise ValueError(
            f"update_every={update_every} must be between 1 and total_steps={total_steps}, or None for updates by hand"
        )


def check_shapes_of(optimizer: torch.optim.Optimizer, weights: Sequence[Any]) -> None:
    for weight in weights:
        check_shapes(optimizer, weight)
