"""What the running backward passes have added up so far, before a parameter's gradient is accumulated."""

from __future__ import annotations

import torch

from .staged import StagedGradient

__all__ = ["Passes"]


class Passes:
    """A `StagedGradient` for each running backward pass; it goes with the pass, parameter reached or not."""

    def __init__(self) -> None:
        self._sums: dict[int, StagedGradient] = {}

    def current(self) -> StagedGradient:
        """Returns that of the running backward pass."""
        number = torch._C._current_graph_task_id()
        if number not in self._sums:

            def end() -> None:
                self._sums.pop(number, None)

            self._sums[number] = StagedGradient()
            torch.autograd.Variable._execution_engine.queue_callback(end)
        return self._sums[number]

    def __len__(self) -> int:
        return len(self._sums)

    def pop(self) -> StagedGradient | None:
        """Takes out that of the running backward pass; None where nothing was added."""
        return self._sums.pop(torch._C._current_graph_task_id(), None)
