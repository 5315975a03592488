"""Traffic between ranks in a training step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from regrow.weights import sparse_weights

__all__ = ["Traffic", "gradient_bytes"]


@dataclass(frozen=True)
class Traffic:
    """Bytes of gradients that each rank hands to all-reduce in a step.

    Attributes:
        sparse: bytes of sparse weights: of active ones in compressed storage, of all positions in masked storage.
        other: bytes of all other trained parameters.
        dense: bytes of the same network without sparsity, `other` included.
    """

    sparse: int
    other: int
    dense: int


def gradient_bytes(model: nn.Module) -> Traffic:
    """Returns what a step of data-parallel training sends; a topology update sends more, see docs/distributed.md.

    Example:
        >>> model = regrow.sparsify(torch.nn.Linear(100, 10), density=0.05, storage="compressed")
        >>> regrow.distributed.gradient_bytes(model)
        Traffic(sparse=200, other=40, dense=4040)
    """
    weights = sparse_weights(model).values()
    sizes = {id(w.parameter): (w.parameter.nbytes, w.numel * w.parameter.itemsize) for w in weights}
    trained = {id(p): p.nbytes for p in model.parameters() if p.requires_grad}
    other = sum(size for key, size in trained.items() if key not in sizes)
    held = [size for key, size in sizes.items() if key in trained]
    return Traffic(sum(now for now, _ in held), other, other + sum(dense for _, dense in held))
