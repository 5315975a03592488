"""The state of an updater in checkpoints of several processes: gathered by rank 0, or each rank's own."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch

from regrow.distributed import gather_objects, own_of

from .composed import ComposedUpdater

__all__ = ["GatheredState", "ShardedState"]


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


class ShardedState:
    """An updater as torch.distributed.checkpoint saves and loads it: each process writes its shards of the momentum.

    What the checkpoint has besides is the same on all ranks. Momentum that is not there yet, between two windows, is
    saved as zeros, so that a checkpoint has the same entries at any time.

    Args:
        updater: of a model that `fully_shard` has sharded.

    Example:
        >>> from torch.distributed import checkpoint
        >>> from torch.distributed.checkpoint.state_dict import get_state_dict
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> updater = regrow.SparseMomentum(model, optimizer, total_steps=54_000, update_every=540)
        >>> weights, moments = get_state_dict(model, optimizer)
        >>> state = {"model": weights, "optimizer": moments, "updater": ShardedState(updater)}
        >>> future = checkpoint.save(state, checkpoint_id="begun")
    """

    def __init__(self, updater: ComposedUpdater):
        self._updater = updater

    def state_dict(self) -> dict[str, Any]:
        rest, moments = self._updater.state_dict(), {}
        for name, missing in self._updater._collectors.items():
            rest["missing"][name] = rest["missing"][name] | {"moments": {}}
            moments[name] = missing.all_moments()
        stream = io.BytesIO()
        torch.save(rest, stream)
        return {"rest": stream.getvalue(), "moments": moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Called by `torch.distributed.checkpoint.load`.

        Args:
            state: what `state_dict` returned, filled by torch.distributed.checkpoint.
        """
        whole = torch.load(io.BytesIO(state["rest"]), weights_only=True)
        for name, missing in whole["missing"].items():
            if missing["steps"]:
                missing["moments"] = state["moments"][name]
        self._updater.load_state_dict(whole)
