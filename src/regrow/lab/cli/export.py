"""`regrow export`: the network of a checkpoint in other formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

import regrow
from regrow import export
from regrow.lab.errors import UsageError, unknown
from regrow.lab.models import example_input
from regrow.lab.training.restored import load_network

from .tables import console

__all__ = ["FORMATS", "export_checkpoint"]

FORMATS: dict[str, Callable[[Path, nn.Module, Tensor], object]] = {
    "dense": lambda path, model, example: export.save_dense(path, model),
    "compact": export.save_compact,
    "safetensors": lambda path, model, example: export.save_safetensors(path, model),
    "onnx": export.save_onnx,
    "torch-sparse": lambda path, model, example: export.save_torch_sparse(path, model),
}


def export_checkpoint(checkpoint: Path, to: str, out: Path, optimizer: bool = False) -> None:
    """Writes the network of a checkpoint, and says how large the file is.

    Args:
        checkpoint: a run folder, or its checkpoint.pt.
        to: one of FORMATS.
        out: the file.
        optimizer: keep the optimizer's state too, in a sparse file.

    Raises:
        UsageError: no such format, a folder as `out`, or a format that keeps no optimizer.
    """
    if to not in FORMATS:
        raise unknown("format", to, FORMATS)
    if out.is_dir():
        raise UsageError(f"{out} is a folder; name a file with --out")
    if optimizer and to != "safetensors":
        raise UsageError(f"{to} cannot hold an optimizer; leave out --optimizer, or use --to safetensors")
    settings, model, state = load_network(checkpoint)
    if optimizer:
        from regrow.lab.recipes.optimizer import make_optimizer

        trained = make_optimizer(model, settings.recipe)
        trained.load_state_dict(state["optimizer"])
        export.save_safetensors(out, model, trained)
    else:
        FORMATS[to](out, model, example_input(settings.recipe.model))
    console().print(_size(out, model), markup=False, soft_wrap=True)


def _size(file: Path, model: nn.Module) -> str:
    size = file.stat().st_size
    active = regrow.summary(model).active or sum(p.numel() for p in model.parameters())
    return f"{file}: {size:,} bytes, {size / active:.1f} for each of {active:,} active weights"
