"""Adaptive gradient clipping, row by row of the dense weights, in any storage."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regrow.optimizers.rows import clip_by_rows, scaled_down
from regrow.weights import SparseWeight, sparse_weights

__all__ = ["adaptive_clip_grad_"]


@torch.no_grad()
def adaptive_clip_grad_(model: nn.Module, clip_factor: float = 0.01, eps: float = 1e-3, norm_type: float = 2.0) -> None:
    """Clips the gradient of each row of each weight to a fraction of the norm of that row.

    If the |gradient| of a row is above clip_factor * max(|weight|, eps), it is scaled down to that. A row has all
    weights of one output: a row of a linear layer's matrix or a filter of a convolution; a parameter of one dimension
    is a single row. Call it between backward and step. It does what `timm.utils.adaptive_clip_grad` does with the dense
    weights. In compressed storage that function treats each active weight as a separate row; an updater corrects this
    if it notices it.

    Args:
        model: dense or sparse, in any storage; gradients change in place, and None stays None.
        clip_factor: above 0.
        eps: above 0; rows of smaller norms, such as new ones, count as if they had this one.
        norm_type: above 0, or infinity.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> model(batch).sum().backward()
        >>> adaptive_clip_grad_(model, clip_factor=0.01)

    Brock et al. 2021, arXiv:2102.06171, section 4.1.
    """
    for name, value in {"clip_factor": clip_factor, "eps": eps, "norm_type": norm_type}.items():
        if not value > 0:
            raise ValueError(f"adaptive_clip_grad_: {name}={value} must be above 0")
    compressed = {id(w.parameter): w for w in sparse_weights(model).values() if not w.keeps_parameter_shape}
    for parameter in model.parameters():
        if parameter.grad is not None:
            _clip(parameter, parameter.grad.detach(), compressed.get(id(parameter)), clip_factor, eps, norm_type)


def _clip(
    parameter: Tensor, gradient: Tensor, weight: SparseWeight | None, factor: float, eps: float, kind: float
) -> None:
    if weight is not None:
        gradient.copy_(clip_by_rows(weight, gradient, factor, eps, kind))
        return
    own, norm = (_norm_of_rows(tensor, kind) for tensor in (parameter.detach(), gradient))
    gradient.copy_(scaled_down(gradient, norm, own.clamp(min=eps) * factor))


def _norm_of_rows(tensor: Tensor, kind: float) -> Tensor:
    """Broadcasts against the tensor."""
    if tensor.dim() < 2:
        return tensor.norm(kind)
    return tensor.norm(kind, dim=tuple(range(1, tensor.dim())), keepdim=True)
