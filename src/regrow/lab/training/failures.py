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
    """Within `with`, full disks, data that cannot be read, numbers that are not finite and other processes that are
    gone become a RunError."""
    try:
        yield
    except RuntimeError as error:
        if ranks.number == 1 or not _LOST_PEER.search(str(error)):
            raise
        raise RunError(
            f"another of the {ranks.number} processes is gone ({reason(error)}); go on with --resume in as many; "
            f"{_left(folder)}"
        ) from error
    except OSError as error:
        raise RunError(f"{reason(error)}; put that right and go on with --resume; {_left(folder)}") from error
    except FloatingPointError as error:
        raise RunError(f"{reason(error)}; {_left(folder)}") from error


def _left(folder: RunFolder) -> str:
    """Which checkpoint there is; it has been read."""
    try:
        checkpoint = folder.checkpoint()
    except (RunError, OSError) as error:
        return reason(error)
    if checkpoint is None:
        return "there is no checkpoint yet, so it begins anew"
    return f"the last good checkpoint is that of step {checkpoint['position']['step']}, {folder.path / CHECKPOINT}"


def refuse_lost_loss(loss: LossSum, session: Session, position: Position) -> None:
    """Raises where a loss of the epoch under way was not finite, on any rank; all ranks ask at the same steps."""
    step = loss.lost_step
    if session.ranks.any(step is not None):
        raise FloatingPointError(
            f"the loss is not finite at {_when(step or position.step, position)}; {_remedy(session)}"
        )


def refuse_lost_weights(session: Session, position: Position) -> None:
    """Raises where a weight is not finite, of which the next loss would tell too late for a checkpoint."""
    lost = [name for name, weight in session.model.named_parameters() if not weight.isfinite().all()]
    if lost:
        names = ", ".join(lost[:3]) + (", …" if len(lost) > 3 else "")
        raise FloatingPointError(f"not finite after {_when(position.step, position)}: {names}; {_remedy(session)}")


def _when(step: int, position: Position) -> str:
    epoch = position.epoch + (1 if position.batch else 0)
    return f"step {step} (epoch {epoch})"


def _remedy(session: Session) -> str:
    return f"train with less than lr={session.settings.recipe.lr} (--set lr=…)"
