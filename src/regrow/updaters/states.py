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
    """The state of an updater for loops that ask every process for its state and write that of rank 0.

    Between two updates each process holds what only it has collected; here rank 0 gets the states of all. This also
    works in a single process. All processes call `state_dict`, and all load what rank 0 saved, on every machine.

    Args:
        updater: an updater of any method.

    Raises:
        ValueError: another number of processes saved the state; nothing is changed.

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
    """The state of an updater for torch.distributed.checkpoint: each process writes its shards of the momentum.

    The rest of the checkpoint is the same on all ranks. Between two windows, momentum that does not exist yet is saved
    as zeros, so that a checkpoint always has the same entries.

    Args:
        updater: an updater of a model that `fully_shard` has sharded.

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
            state: result of `state_dict`, filled by torch.distributed.checkpoint.
        """
        whole = torch.load(io.BytesIO(state["rest"]), weights_only=True)
        for name, missing in whole["missing"].items():
            if missing["steps"]:
                missing["moments"] = state["moments"][name]
        self._updater.load_state_dict(whole)
