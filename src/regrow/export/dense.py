"""Dense: an ordinary state dict, with zeros where weights were inactive."""

from __future__ import annotations

import os

import torch
from torch import nn

from regrow._sparsify import densify
from regrow.io.atomic import write_atomically
from regrow.weights import plain_name, unwrapped

__all__ = ["save_dense"]


def save_dense(path: str | os.PathLike[str], model: nn.Module) -> None:
    """Writes the state dict of the dense model, whole or not at all; `load_state_dict` of the plain model takes it.

    Args:
        path: the file to write.
        model: sparse or dense.

    Example:
        >>> regrow.export.save_dense("dense.pt", model)
        >>> plain = make_model()
        >>> plain.load_state_dict(torch.load("dense.pt"))
        <All keys matched successfully>
    """
    state = {plain_name(name): value for name, value in unwrapped(densify(model)).state_dict().items()}
    with write_atomically(path) as temporary:
        torch.save(state, temporary)
