"""The state of an updater for checkpoints that rank 0 writes alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regrow.distributed import gather_objects, own_of

__all__ = ["GatheredState"]


class GatheredState:
    """An updater as loops save and load it that ask every process for its state and write that of rank 0.

    Between two updates each process holds what it alone has collected; here rank 0 has all of them. Also in a single
    process. All processes call `state_dict`, and all of them load what rank 0 saved, on every machine.

    Args:
        updater: of any method.

    Raises:
        ValueError: a state is loaded that was saved by another number of processes; nothing is changed.

    Example:
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> updater = regrow.SparseMomentum(model, optimizer, total_steps=54_000, update_every=540)
        >>> saved = GatheredState(updater).state_dict()
        >>> len(saved["updaters"])
        1
        >>> GatheredState(updater).load_state_dict(saved)
    """

    def __init__(self, updater: Any):
        self._updater = updater

    def state_dict(self) -> dict[str, Any]:
        """The states of all processes on rank 0, and none elsewhere."""
        return {"updaters": gather_objects(self._updater.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._updater.load_state_dict(own_of(state["updaters"]))
