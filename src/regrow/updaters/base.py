"""The base of all updaters: it hooks into an optimizer's step, and keeps inactive weights exactly 0."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from regrow.distributed import broadcast_state
from regrow.optimizers.alignment import Alignment
from regrow.optimizers.entering import move_weights
from regrow.optimizers.fitting import check_movable, check_steps_of
from regrow.optimizers.hooks import (
    after_wrapper_step,
    before_step,
    check_only_updater,
    group_of,
    is_nested_step,
    is_stepping,
    keeps_history,
    nested,
    restart_history,
    trained_weights,
    was_skipped,
)
from regrow.optimizers.rows import RowWatch
from regrow.weights import SparseWeight, shard_masks

from .storage_switches import StorageSwitches

__all__ = ["MovingUpdater", "Updater", "check_steps", "row_of"]


class Updater(ABC):
    """Base of all updaters: applies its method to a sparse model while an optimizer trains it.

    It hooks into the optimizer, keeps inactive weights exactly 0, and in several processes gives all of them rank 0's
    model. `ComposedUpdater` builds a method from scores and rules; `Static` changes nothing.

    Args:
        model: a model from `sparsify`.
        optimizer: trains all sparse weights of the model; it may be wrapped, as by SAM or Lookahead.
        alone: whether the optimizer may have no other updater that changes active sets.
        parts: not accepted; pass the parts of a method to `ComposedUpdater`.

    Attributes:
        step: optimizer steps seen; steps that the optimizer skipped do not count.
        history: list of dicts, one per update and layer, with step, prune_rate, name, pruned, grown, active (after the
            update) and importance.

    Example:
        >>> updater = regrow.SET(model, torch.optim.SGD(model.parameters(), lr=0.1), total_steps=9, update_every=3)
        >>> isinstance(updater, regrow.Updater)
        True
    """

    method: ClassVar[str] = ""
    """Its name on the command line and in tables."""
    starts_dense: ClassVar[bool] = False
    """True if the updater starts from a network with all weights and takes the final density."""
    updates: ClassVar[float | None] = None
    """Default number of topology updates in a training; None: one an epoch."""

    _composed: ClassVar[type[Updater]]
    """`ComposedUpdater`, which version 0.1 had under this name; its module sets it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Updater:
        if cls is Updater and kwargs:
            text = "regrow.Updater(...) is regrow.ComposedUpdater(...) now; the old spelling goes in version 0.3"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            cls = cls._composed
        return super().__new__(cls)

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, alone: bool = True, **parts: Any):
        if parts:
            raise TypeError(
                f"regrow.Updater takes no {', '.join(parts)}; a method of parts is a subclass of regrow.ComposedUpdater"
            )
        self._optimizers = nested(optimizer)
        optimizer = self._optimizers[-1]
        if alone:
            check_only_updater(optimizer, MovingUpdater)
        self.optimizer = optimizer
        self.step = 0
        self.history: list[dict[str, Any]] = []
        shard_masks(model)
        self._weights = trained_weights(model, optimizer)
        check_steps_of(optimizer, self._weights)
        self._hooks: list[Any] = []
        self._ended: Any = None
        self._alignment = Alignment(self._weights, self._optimizers)
        broadcast_state(model, self._weights, self._after_backward)

    @abstractmethod
    def update(self) -> list[dict[str, Any]]:
        """Updates the topology now; runs automatically if `update_every` is set.

        Returns:
            The rows added to `history`, one a layer; empty if nothing changes.
        """

    @abstractmethod
    def expect_update(self, after: int) -> None:
        """Announces that the next update by hand comes after so many more optimizer steps.

        Args:
            after: optimizer steps until then, at least 1.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs besides the state of model and optimizer: only tensors and plain values."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state_dict()`; load the model and the optimizer first.

        Args:
            state: result of `state_dict`.

        Raises:
            ValueError: the state belongs to another model or method; nothing is changed.
        """

    def _hang(self) -> None:
        """Hangs on the optimizer; the last thing that a constructor does, so that a refusal changes nothing."""
        self._alignment.settle()
        self._alignment.moves = isinstance(self, MovingUpdater)
        self._row_watch = RowWatch(self._weights)
        self._hooks += [
            before_step(self.optimizer, self._before_step),
            self.optimizer.register_step_post_hook(self._after_hooked_step),
            self.optimizer.register_load_state_dict_post_hook(self._alignment.loaded),
        ]
        for wrapper in self._optimizers[:-1]:
            self._hooks += after_wrapper_step(wrapper, self._after_wrapper)

    def realign(self) -> None:
        """Aligns the optimizer's state with active sets that were loaded into the model without it.

        Weights that were active before and still are keep their state; the others start at 0. Compressed storage needs
        this call, otherwise the next step raises an error. Masked storage does it automatically.

        Example:
            >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            >>> updater = regrow.Static(model, optimizer)
            >>> best = {name: value.clone() for name, value in model.state_dict().items()}
            >>> keys = model.load_state_dict(best)  # later, to go back to the best weights and train on
            >>> updater.realign()
        """
        for name in self._alignment.realign():
            self._follow(name)

    def _after_backward(self) -> None:  # noqa: B027 (most updaters need no such call)
        """Called in several processes when a backward pass has ended, and gradients are means over ranks."""

    def _before_step(self) -> None:
        """Called when gradients are final; methods that do something here call this first."""
        self._row_watch.check()
        for name in self._alignment.restore(self.step):
            self._follow(name)

    def _follow(self, name: str) -> None:  # noqa: B027
        """Called where a layer's active set was loaded since the last step, by others than this updater."""

    def _after_hooked_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Called after each step, and after `super().step()` in steps of subclasses.

        A wrapper that is stepping may yet write to weights what it noted of them before, so its end is waited for.
        """
        if is_nested_step(optimizer):
            return
        self._end_step()
        self._ended = (optimizer, args, kwargs)
        if not any(is_stepping(wrapper) for wrapper in self._optimizers[:-1]):
            self._end_step()

    def _after_wrapper(self, wrapper: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Called after each step of a wrapper, which may have written to inactive weights, as Lookahead does."""
        if is_nested_step(wrapper) or any(is_stepping(w) for w in self._optimizers[:-1] if w is not wrapper):
            return
        for weight in self._weights.values():
            weight.enforce()
        self._end_step()

    def _end_step(self) -> None:
        """Does what is to be done after the optimizer's last step, unless it has been done."""
        ended, self._ended = self._ended, None
        if ended is not None:
            self._after_step(*ended)

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Called after each step; methods that do something here begin and end as this does."""
        if not was_skipped(optimizer):
            for weight in self._weights.values():
                weight.enforce()
            self.step += 1
            self._alignment.note()

    @property
    def _device(self) -> torch.device:
        return next(iter(self._weights.values())).parameter.device

    def _group(self, name: str) -> Mapping[str, Any]:
        return group_of(self.optimizer, self._weights[name])

    def _origin(self) -> dict[str, Any]:
        """Returns what a state belongs to."""
        shapes = {name: list(weight.shape) for name, weight in self._weights.items()}
        return {"updater": type(self).__name__, "shapes": shapes}

    def _check_origin(self, state: Mapping[str, Any], expected: set[str]) -> None:
        """Raises ValueError where a state is damaged, or that of another method or model."""
        if absent := ({"shapes"} | expected) - state.keys():
            raise ValueError(f"this is not the state of an updater, or it is damaged: {sorted(absent)} are missing")
        method = type(self).__name__
        if state.get("updater", method) != method:
            raise ValueError(
                f"this is the state of {state['updater']}, but the updater is {method}; make the one that the run "
                "used, or continue without the state"
            )
        theirs = {name: tuple(shape) for name, shape in state["shapes"].items()}
        ours = {name: tuple(weight.shape) for name, weight in self._weights.items()}
        if theirs != ours:
            differing = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
            details = ", ".join(f"{name} ({theirs.get(name)} there, {ours.get(name)} here)" for name in differing)
            raise ValueError(f"this updater state belongs to another model: {details}")

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state for copies, together with model and optimizer; hooks are not copied with these."""
        return {name: value for name, value in self.__dict__.items() if name != "_hooks"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Hangs a copy on the copy of the optimizer."""
        self.__dict__.update(state)
        self._hooks = []
        self._hang()

    def remove(self) -> None:
        """Removes the updater from the optimizer and the model, which keeps its topology."""
        for hook in self._hooks:
            hook.remove()
        self._row_watch.close()


class MovingUpdater(Updater):
    """An updater that changes active sets; an optimizer has one of these at most."""

    _switches: StorageSwitches | None = None
    switches_storage: ClassVar[bool] = False
    """Whether weights may change their storage, see `sparsify(compress_below=...)`."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        super().__init__(model, optimizer)
        check_movable(self.optimizer, self._weights)
        self._switches = StorageSwitches.of(model, self._weights)
        if self._switches and not self.switches_storage:
            raise ValueError(
                f"{type(self).__name__} cannot change the storage of {', '.join(self._switches.rules)}; use "
                "sparsify(...) without compress_below"
            )

    def _move(
        self,
        weight: SparseWeight,
        pruned: Tensor,
        grown: Tensor,
        inherited: Mapping[str, Tensor] | None = None,
        restart: bool = True,
    ) -> None:
        """Changes an active set, and has the state of the optimizer and its wrappers follow.

        State that runs through all weights, like that of LBFGS, cannot follow: the optimizer restarts.
        """
        goes_stale = keeps_history(self.optimizer) and bool(pruned.numel() or grown.numel())
        move_weights(self._optimizers, weight, pruned, grown, inherited or {}, restart)
        if goes_stale:
            restart_history(self.optimizer)

    def remove(self) -> None:
        super().remove()
        for weight in self._weights.values():
            weight.last_update = 0  # what trains them next begins, and resumes nothing

    def _note_update(self, rows: list[dict[str, Any]]) -> None:
        """Ends an update: what rows say belongs to the history, and to the model from now on."""
        self.history += rows
        for weight in self._weights.values():
            weight.last_update = self.step
        if self._switches:
            self._change_storage(self._switches, self._switches.due(self._weights))
        self._alignment.settle()

    def _change_storage(self, switches: StorageSwitches, storages: Mapping[str, str]) -> None:
        """Gives weights another storage; the optimizer's state, and all that holds these weights, follow."""
        if not storages:
            return
        for name in storages:
            self._before_switch(name)
        self._row_watch.close()
        switches.change(self._weights, storages, self._optimizers)
        self._row_watch = RowWatch(self._weights)
        for name in storages:
            self._after_switch(name)

    def _before_switch(self, name: str) -> None:
        """Called before a weight of `_weights` is replaced by one of another storage."""

    def _after_switch(self, name: str) -> None:
        """Called when it has been replaced."""


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
