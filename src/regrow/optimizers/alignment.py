"""Keeps an optimizer's state and the values of inactive weights consistent with the active sets.

An updater moves values and optimizer state together. Other code need not: a model's best weights are loaded without
the optimizer's state, a dense checkpoint, a merge or an init function writes over inactive weights, and a training is
resumed without its updater.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from regrow.weights import SparseWeight

from .entering import state_of

__all__ = ["Alignment", "warn_stray"]

_SAMPLE = 64
_EVERY = 8
"""Steps between looks at weights that, by their version, nobody has written to; `.data` is not counted in it."""


class Alignment:
    """Alignment of the state of the sparse weights that an optimizer trains, inside wrappers or not.

    Attributes:
        keeps_inactive: whether inactive weights have optimizer state of their own, as methods with shadow weights have.
        moves: whether the updater changes active sets, so that it matters at which step of its schedule it is.
    """

    def __init__(self, weights: Mapping[str, SparseWeight], optimizers: Sequence[Any]):
        self._weights, self._optimizers = weights, optimizers
        self._known: dict[str, tuple[Any, Any]] = {}
        self._written: dict[str, int] = {}
        self._state_loaded = False
        self._resumed_from: int | None = None
        self.keeps_inactive = False
        self.moves = False

    def settle(self) -> None:
        """Active sets, values and state belong together now."""
        self._known = {name: weight.topology for name, weight in self._weights.items()}
        self.note()

    def note(self) -> None:
        """A step has been taken, which changes values and state, and no active set."""
        self._state_loaded = False
        self._written = {name: weight.version for name, weight in self._weights.items()}
        if self._resumed_from is not None:
            self._warn_resumed(self._resumed_from)

    def loaded(self, optimizer: torch.optim.Optimizer) -> None:
        """Notes that the optimizer has loaded a state, which belongs to the active sets at its next step."""
        self._state_loaded = True

    def restore(self, step: int) -> list[str]:
        """Before a step: refuses state of other active sets, and looks for inactive weights that are not 0.

        Returns:
            The names of weights whose active sets were loaded without the updater.

        Raises:
            RuntimeError: the optimizer's state is that of other weights than the model has by now.
        """
        if step == 0 and self.moves:
            self._resumed_from = self._history()
        loaded = self._changed()
        for name in loaded:
            self._check_state(self._weights[name], self._known[name][0])
        self._known |= {name: self._weights[name].topology for name in loaded}
        for name, weight in self._weights.items():
            if step % _EVERY == 0 or weight.version != self._written[name]:
                self._look_for_stray(weight, step)
        return loaded

    def _changed(self) -> list[str]:
        """Weights with another active set than was noted; not where inactive weights have state of their own."""
        if self.keeps_inactive:
            return []
        pairs = ((name, self._known[name], weight.topology) for name, weight in self._weights.items())
        return [name for name, known, now in pairs if now[0] is not known[0] or now[1] != known[1]]

    def _history(self) -> int | None:
        """The last update of a topology from another training, if the optimizer continues it too."""
        last = max(weight.last_update for weight in self._weights.values())
        return last if last and self._has_state() else None

    def _has_state(self) -> bool:
        return any(state_of(self._optimizers, weight) for weight in self._weights.values())

    def _warn_resumed(self, last: int) -> None:
        self._resumed_from = None
        warnings.warn(
            f"model and optimizer continue a training whose topology was last updated at step {last}, but the "
            "updater begins at step 0, with the first prune rate of its schedule. To resume that training, save "
            "updater.state_dict() beside the model's and the optimizer's, and load it with updater.load_state_dict()",
            stacklevel=2,
        )

    def _check_state(self, weight: SparseWeight, before: torch.Tensor) -> None:
        state = state_of(self._optimizers, weight)
        if weight.keeps_parameter_shape:
            if not self._state_loaded:
                weight.realign(before, state)
            return
        sizes = {value.numel() for value in state.values() if isinstance(value, torch.Tensor) and value.dim()}
        fits = sizes <= {weight.active}
        if sizes and not (fits and self._state_loaded) and not (fits and torch.equal(before.long(), weight.indices)):
            raise RuntimeError(
                f"{weight.name} has another active set than at the last step, as after loading a model's weights, "
                "but the optimizer's state belongs to the weights before. Load the state that was saved with the model "
                "(optimizer.load_state_dict); or call updater.realign(), so that weights that stay keep their state "
                "and the others start at 0; or call optimizer.state.clear()"
            )

    def realign(self) -> list[str]:
        """Aligns the optimizer's state with loaded active sets, and returns their names. See `Updater.realign`."""
        loaded = self._changed()
        for name in loaded:
            weight = self._weights[name]
            weight.realign(self._known[name][0], state_of(self._optimizers, weight))
        self.settle()
        return loaded

    def _look_for_stray(self, weight: SparseWeight, step: int) -> None:
        if weight.stray_in_sample(_SAMPLE):
            warn_stray(weight, f"before step {step + 1}")
            weight.enforce()


def warn_stray(weight: SparseWeight, when: str) -> None:
    """Warns how many inactive weights are not 0, and that they are set to 0."""
    warnings.warn(
        f"{weight.stray():,} inactive weights of {weight.name} were not 0 {when}, as a dense checkpoint, a merge or an "
        "init function leaves them; they are set to 0 again. regrow.check(model) finds such weights at any time",
        stacklevel=2,
    )
