"""Averages of weights (EMA, SWA) over a training in which the topology changes; `mean` has those of several models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from regrow.weights import SparseWeight, among, change_storage, sparse_weights

from .mean import average

__all__ = ["AveragedModel", "average"]


class AveragedModel(swa_utils.AveragedModel):
    """`torch.optim.swa_utils.AveragedModel` that follows the topology of a sparse model: EMA, SWA, target networks.

    Each `update_parameters` first gives the average the model's active sets: pruned weights are removed from the
    average, and grown ones start at 0, as in the model. The average is therefore as sparse as the model and has the
    same topology. For active weights it equals the average of the dense weights, zeros included, except that a weight
    that grows again has lost its earlier average. For the mean of models with different topologies (clients,
    checkpoints), use `average`.

    Args:
        model: dense or sparse; copied.
        device: device of the copy; None: that of the model.
        avg_fn: how to average one tensor; without it and `multi_avg_fn` all models count equally.
        multi_avg_fn: how to average lists of tensors, such as `swa_utils.get_ema_multi_avg_fn(0.999)`.
        use_buffers: average floating-point buffers too (BatchNorm's statistics); all others are copied.

    Raises:
        ValueError: from `update_parameters`, with a model that has other sparse weights.

    Example:
        >>> from torch.optim.swa_utils import get_ema_multi_avg_fn
        >>> ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
        >>> ema.update_parameters(model)  # after each optimizer step
        >>> ema(batch).shape
        torch.Size([2, 10])

        A target network of reinforcement learning, which takes a share tau of the new weights at each step:

        >>> tau = 0.005
        >>> target = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - tau))
        >>> target.update_parameters(model)
    """

    def __init__(
        self,
        model: nn.Module,
        device: int | torch.device | None = None,
        avg_fn: Callable[..., Tensor] | None = None,
        multi_avg_fn: Callable[..., None] | None = None,
        use_buffers: bool = False,
    ):
        if use_buffers:
            if multi_avg_fn is None:
                avg_fn = _one_by_one(avg_fn or swa_utils.get_swa_avg_fn())
            else:
                multi_avg_fn = _all_at_once(multi_avg_fn)
        super().__init__(model, device, avg_fn, multi_avg_fn, use_buffers)

    def update_parameters(self, model: nn.Module) -> None:
        """Takes the model's active sets, and averages its weights.

        Args:
            model: the model in training, sparse in the same weights.
        """
        ours, theirs = sparse_weights(self.module), sparse_weights(model)
        if differing := sorted(ours.keys() ^ theirs.keys()):
            raise ValueError(
                f"{', '.join(differing)} are sparse in only one of the averaged model and this one; make the "
                "AveragedModel from the model that regrow.sparsify returned"
            )
        ours = self._in_storage_of(ours, theirs)
        for name, weight in ours.items():
            _follow(weight, theirs[name])
        super().update_parameters(model)
        for weight in ours.values():
            weight.accept_values()  # they were averaged at the positions that they have

    def _in_storage_of(
        self, ours: dict[str, SparseWeight], theirs: Mapping[str, SparseWeight]
    ) -> dict[str, SparseWeight]:
        """Gives weights of the average the storage that those of the model have come to; returns all of them."""
        differing = {name: weight.storage for name, weight in theirs.items() if ours[name].storage != weight.storage}
        switches = {name: ours[name].switch or theirs[name].switch for name in differing}
        known = {name: replace(switch, tuned=None) for name, switch in switches.items() if switch is not None}
        if not known:
            return ours
        strides = {name: theirs[name].parameter.stride() for name in known}
        change_storage(self.module, {name: differing[name] for name in known}, known, strides)
        return sparse_weights(self.module)


def _follow(average: SparseWeight, weight: SparseWeight) -> None:
    """Gives the average the active set of the weight."""
    before = average.indices
    after = weight.indices.to(before.device)
    if not torch.equal(before, after):
        pruned, grown = (here[~among(here, there)] for here, there in ((before, after), (after, before)))
        average.move(pruned, grown, state={}, grown_state={})
    average.copy_choices(weight)


def _one_by_one(average: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Averages numbers, and copies masks, positions and counters."""

    def wrapped(averaged: Tensor, current: Tensor, count: Any) -> Tensor:
        return average(averaged, current, count) if averaged.is_floating_point() else current

    return wrapped


def _all_at_once(average: Callable[..., None]) -> Callable[..., None]:
    """The same for lists of tensors of one dtype."""

    def wrapped(averaged: Any, current: Any, count: Any) -> None:
        if averaged[0].is_floating_point():
            average(averaged, current, count)
        else:
            for mine, other in zip(averaged, current, strict=True):
                mine.copy_(other)

    return wrapped
