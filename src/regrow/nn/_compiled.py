"""Operators that code compiled by torch calls. Imported once TorchDynamo is, because that takes seconds."""

from __future__ import annotations

import torch
from torch import Tensor

from ._contract import CompressedLayer
from .blocked import ordinary_outputs


@torch.compiler.disable(reason="a compressed layer's length changes at every topology update")
def outside_the_graph(layer: CompressedLayer, input: Tensor) -> Tensor:
    """The layer's output as an ordinary tensor, which compiled code takes."""
    layer._check_identity()
    return ordinary_outputs(layer, (input,), layer._run(input))
