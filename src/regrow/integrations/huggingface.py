"""Hugging Face's Trainer: the updater as a callback, and in its checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from regrow.distributed import gather_objects, own_of
from regrow.io.atomic import write_atomically
from regrow.weights import sparse_weights

__all__ = ["SparseTraining"]

_FILE = "regrow.pt"


class SparseTraining(TrainerCallback):
    """Makes the updater when training begins, and keeps its state in the checkpoints, as `regrow.pt`.

    `trainer.train(resume_from_checkpoint=...)` then reaches the bits of a training that never stopped. Give the
    Trainer a model that is sparse already.

    Args:
        method: (model, optimizer, total_steps=..., **settings) -> updater, such as `regrow.SparseMomentum`.
        settings: other arguments of the method. total_steps comes from the Trainer unless you set it.

    Attributes:
        updater: the updater of the last training; None before the first.

    Raises:
        FileNotFoundError, ValueError: when training resumes, if the checkpoint's folder in `args.output_dir` has no
            state of an updater, or that of another training or number of processes.

    Example:
        >>> trainer = Trainer(model, arguments, callbacks=[SparseTraining(regrow.SparseMomentum, update_every=100)])
    """

    def __init__(self, method: Callable[..., Any], **settings: Any):
        self.method = method
        self.settings = settings
        self.updater: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        """The Trainer has loaded model and optimizer by now."""
        model = objects["model"]
        settings = {"total_steps": state.max_steps} | self.settings
        self.updater = self.method(model, objects["optimizer"], **settings)
        if state.global_step > 0:
            self.updater.load_state_dict(_read(_place(args, state), model))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any) -> None:
        if not args.save_only_model:
            updaters = gather_objects(self.updater.state_dict())
            if updaters:  # on rank 0
                with write_atomically(_place(args, state)) as temporary:
                    torch.save({"topology": _fingerprint(objects["model"]), "updaters": updaters}, temporary)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        self.updater.remove()


def _place(args: TrainingArguments, state: TrainerState) -> Path:
    """The file in the checkpoint of this step; the Trainer does not tell callbacks from where it resumes."""
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / _FILE


def _read(path: Path, model: nn.Module) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path}: the checkpoint was saved without SparseTraining, or lies outside output_dir; copy "
            f"its folder to {path.parent} to resume"
        )
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content["topology"] != _fingerprint(model):
        raise ValueError(
            f"{path} belongs to another training: its active sets differ from the loaded model's; copy the folder of "
            f"its checkpoint to {path.parent} to resume"
        )
    return own_of(content["updaters"])


def _fingerprint(model: nn.Module) -> str:
    """A digest of all active sets."""
    digest = hashlib.sha256()
    for weight in sparse_weights(model).values():
        digest.update(weight.indices.cpu().numpy().tobytes())
    return digest.hexdigest()
