"""Random crops and flips of whole batches: one gather, whatever the number of images."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["PADDING", "crop_and_flip", "draw_moves"]

PADDING = 4
"""Pixels by which an image can be shifted; what comes in at the border is reflected, as in the published protocol."""


def draw_moves(images: int, generator: torch.Generator) -> Tensor:
    """A random crop and flip for each image: offsets down and right, 0 to 2 * PADDING, and 0 or 1; int64 (N, 3).

    Example:
        >>> draw_moves(128, torch.Generator().manual_seed(0)).shape
        torch.Size([128, 3])
    """
    offsets = torch.randint(2 * PADDING + 1, (images, 2), generator=generator)
    flips = torch.randint(2, (images, 1), generator=generator)
    return torch.cat([offsets, flips], dim=1)


def crop_and_flip(images: Tensor, moves: Tensor) -> Tensor:
    """Pads each image by reflection, crops it at its offset, and mirrors it left to right where asked.

    Args:
        images: (N, C, H, W), H and W above PADDING.
        moves: from `draw_moves`.

    Returns:
        New images of the same shape and dtype. (PADDING, PADDING, 0) leaves an image as it is.
    """
    n, channels, height, width = images.shape
    down, right, flip = moves.unsqueeze(2).unbind(1)
    columns = torch.arange(width, device=images.device)
    columns = torch.where(flip == 1, width - 1 - columns, columns)
    rows_NH = _reflected(torch.arange(height, device=images.device) + down, height)
    columns_NW = _reflected(columns + right, width)
    source = (rows_NH.unsqueeze(2) * width + columns_NW.unsqueeze(1)).view(n, 1, -1).expand(n, channels, -1)
    return images.reshape(n, channels, -1).gather(2, source).view_as(images)


def _reflected(position: Tensor, size: int) -> Tensor:
    """The pixel behind a position of the padded image."""
    inside = (position - PADDING).abs()
    return torch.where(inside >= size, 2 * (size - 1) - inside, inside)
