"""The state of an updater for torch.distributed.checkpoint."""

from __future__ import annotations

import io
from typing import Any

import torch

from .composed import ComposedUpdater

__all__ = ["ShardedState"]


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
