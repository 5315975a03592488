"""Lightning's Trainer: the updater as a callback, and in its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    from pytorch_lightning import Callback, LightningModule, Trainer

from regrow.distributed import gather_objects, own_of
from regrow.updaters import Static
from regrow.weights import sparse_weights

__all__ = ["SparseTraining"]

_AVERAGING = {"StochasticWeightAveraging", "WeightAveraging"}
"""Callbacks of Lightning, in either of its packages, that average weights entry by entry; others derive from them."""


class SparseTraining(Callback):
    """Makes the updater when training starts, and carries its state in the checkpoints.

    `trainer.fit(..., ckpt_path=...)` then reaches the bits of a training that never stopped. Make the model sparse
    in the LightningModule's constructor.

    Args:
        method: (model, optimizer, total_steps=..., **settings) -> updater, such as `regrow.SparseMomentum`.
        settings: other arguments of the method. total_steps is `trainer.estimated_stepping_batches` unless you set it.

    Attributes:
        updater: the updater of the last training; None before the first.

    Raises:
        ValueError: when training starts, if there is not exactly one optimizer, no end to the training, or a callback
            of Lightning that averages weights while the method moves them; when a checkpoint is loaded, if another
            number of processes saved it.

    Example:
        >>> trainer = Trainer(max_epochs=9, callbacks=[SparseTraining(regrow.SparseMomentum, update_every=100)])
    """

    def __init__(self, method: Callable[..., Any], **settings: Any):
        self.method = method
        self.settings = settings
        self.updater: Any = None
        self._saved: Mapping[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._saved = None  # of an evaluation before; a checkpoint of this run is loaded after this

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning has loaded model and optimizer by now."""
        if len(trainer.optimizers) != 1:
            raise ValueError(
                f"SparseTraining handles one optimizer, but {type(pl_module).__name__} has {len(trainer.optimizers)}; "
                "make the updaters in configure_optimizers, and save their states in on_save_checkpoint"
            )
        settings = {"total_steps": trainer.estimated_stepping_batches} | self.settings
        if not math.isfinite(settings["total_steps"]):
            raise ValueError(
                "the Trainer never ends (max_epochs=-1), so the prune rate cannot be annealed; use "
                "SparseTraining(..., total_steps=...)"
            )
        updater = self.method(pl_module, trainer.optimizers[0], **settings)
        try:
            _refuse_averaging(trainer, pl_module, moves=not isinstance(updater, Static))
        except ValueError:
            updater.remove()
            raise
        self.updater = updater
        if self._saved is not None:
            self.updater.load_state_dict(self._saved)
            self._saved = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.updater.remove()

    def state_dict(self) -> dict[str, Any]:
        """The updaters of all ranks; on rank 0, which writes the checkpoint. Lightning calls it on all of them."""
        return {} if self.updater is None else {"updaters": gather_objects(self.updater.state_dict())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = own_of(state_dict["updaters"])


def _refuse_averaging(trainer: Trainer, pl_module: LightningModule, moves: bool) -> None:
    """Raises where a callback would average weights of different positions, or the positions themselves.

    Args:
        moves: whether the method changes active sets.
    """
    compressed = any(not weight.keeps_parameter_shape for weight in sparse_weights(pl_module).values())
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not _AVERAGING & {kind.__name__ for kind in type(callback).__mro__}:
            continue
        if moves:
            raise ValueError(
                f"{type(callback).__name__} averages weights entry by entry, while SparseTraining moves them to other "
                "positions; remove the callback, and keep the average with regrow.integrations.averaging."
                "AveragedModel: averaged.update_parameters(self) in on_train_batch_end of the LightningModule"
            )
        if compressed and getattr(callback, "_use_buffers", False):
            raise ValueError(
                f"{type(callback).__name__} also averages buffers, where compressed layers keep positions; set its "
                'use_buffers=False, or sparsify with storage="masked"'
            )
