"""Failures that end a run, in one line: the cause, the step, and the checkpoint that is left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from regrow.lab.errors import RunError, reason

from .folder import CHECKPOINT, RunFolder
from .loss import LossSum
from .position import Position
from .ranks import Ranks
from .session import Session

__all__ = ["named_causes", "refuse_lost_loss", "refuse_lost_weights"]


_LOST_PEER = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe", re.IGNORECASE)


@contextmanager
def named_causes(folder: RunFolder, ranks: Ranks) -> Iterator[None]:
    """Turns full disks, unreadable data, NaN or infinite numbers and lost processes into a RunError within `with`."""
    try:
        yield
    except RuntimeError as error:
        if ranks.number == 1 or not _LOST_PEER.search(str(error)):
            raise
        raise RunError(
            f"one of the {ranks.number} processes is gone ({reason(error)}); continue with --resume and as many; "
            f"{_left(folder)}"
        ) from error
    except OSError as error:
        raise RunError(f"{reason(error)}; fix that and continue with --resume; {_left(folder)}") from error
    except FloatingPointError as error:
        raise RunError(f"{reason(error)}; {_left(folder)}") from error


def _left(folder: RunFolder) -> str:
    """Names the last checkpoint, which has been read."""
    try:
        checkpoint = folder.checkpoint()
    except (RunError, OSError) as error:
        return reason(error)
    if checkpoint is None:
        return "there is no checkpoint yet, so the run starts again"
    return f"the last good checkpoint is that of step {checkpoint['position']['step']}, {folder.path / CHECKPOINT}"


def refuse_lost_loss(loss: LossSum, session: Session, position: Position) -> None:
    """Raises if a loss of the current epoch was NaN or infinite on any rank; all ranks ask at the same steps."""
    step = loss.lost_step
    if session.ranks.any(step is not None):
        raise FloatingPointError(
            f"the loss is not finite at {_when(step or position.step, position)}; {_remedy(session)}"
        )


def refuse_lost_weights(session: Session, position: Position) -> None:
    """Raises if a weight is NaN or infinite; the next loss would show it too late for a checkpoint."""
    lost = [name for name, weight in session.model.named_parameters() if not weight.isfinite().all()]
    if lost:
        names = ", ".join(lost[:3]) + (", …" if len(lost) > 3 else "")
        raise FloatingPointError(f"not finite after {_when(position.step, position)}: {names}; {_remedy(session)}")


def _when(step: int, position: Position) -> str:
    epoch = position.epoch + (1 if position.batch else 0)
    return f"step {step} (epoch {epoch})"


def _remedy(session: Session) -> str:
    return f"use a learning rate below lr={session.settings.recipe.lr} (--set lr=…)"
