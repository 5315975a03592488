"""A session saved in its folder, and put back from there."""

from __future__ import annotations

from typing import Any

import torch

from regrow.lab.errors import RunError
from regrow.serialization import check_same_model

from .description import describe
from .failures import refuse_lost_weights
from .folder import CHECKPOINT, RunFolder
from .position import Position
from .session import Session
from .ticket import Ticket, rewind

__all__ = ["begin", "restore", "save"]


def save(session: Session, folder: RunFolder, position: Position) -> None:
    """Writes a checkpoint; one that holds weights which are not finite is never written."""
    refuse_lost_weights(session, position)
    position.note_memory()
    how = {"threads": torch.get_num_threads(), "processes": session.ranks.number}
    how |= {"deterministic": torch.are_deterministic_algorithms_enabled()}
    settings = session.settings.stored()
    folder.save({"settings": settings, **how, "position": position.as_dict(), **session.state_dict()})
    session.ranks.wait()  # a process that ended sooner would take the others down


def begin(session: Session, folder: RunFolder, ticket: Ticket | None) -> Position:
    """Returns where a new run starts. It is saved at once, so that its folder says whose it is."""
    folder.cut_back(None)
    folder.describe(describe(session))
    position = Position(flop_density_start=session.flop_density, step_flops_sum=0.0)
    if ticket and ticket.values is not None:
        rewind(session.model, ticket.values)
        position.epoch = ticket.epoch
        position.step = ticket.epoch * session.steps_per_epoch
    save(session, folder, position)
    return position


def restore(session: Session, folder: RunFolder, checkpoint: dict[str, Any]) -> Position:
    """Returns where a run goes on, with all that it had there.

    Raises:
        RunError: the checkpoint is of another model; its folder is as it was.
    """
    sparse = checkpoint.get("sparse", session.sparse_shapes)  # regrow 0.1 did not write them
    try:
        check_same_model(folder.path / CHECKPOINT, session.model, checkpoint["model"], sparse)
    except ValueError as error:
        raise RunError(f"{error}; resume with the code that wrote it, or start a new run with --out") from error
    session.load_state_dict(checkpoint)
    folder.cut_back(checkpoint)
    folder.describe(describe(session))
    return Position(**checkpoint["position"])
