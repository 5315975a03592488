"""The gradient of all positions of a weight, kept from backward to the optimizer's step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["Activity", "StagedGradient"]

Activity = tuple[Tensor, Tensor]
"""Sums of |gradient| of each output, shape (rows,), and of |input| of each column of a weight, shape (columns,)."""


class StagedGradient:
    """A gradient of dense shape: a tensor, products that have not been multiplied out, or both, added up.

    A product is a pair of factors (rows, out) and (rows, in), whose gradient is left.t() @ right. It is multiplied out
    straight into the momentum, so that nothing else of dense size need exist; but only while all factors together
    are smaller than the tensor would be.

    Attributes:
        tensor: a tensor of the dense shape, or None.
        products: pairs of factors.
        pairs: inputs and gradients of outputs from which the gradient can be computed at few positions, where a tap
            `keeps_pairs`; they stand for what is in neither of the two above.
        activity: of all that was added, where it was seen.
    """

    def __init__(self, tensor: Tensor | None = None):
        self.tensor = tensor
        self.products: list[tuple[Tensor, Tensor]] = []
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.activity: Activity | None = None

    def add(self, tensor: Tensor) -> None:
        """Adds a gradient, which must not be used elsewhere."""
        self.tensor = tensor if self.tensor is None else self.tensor.add_(tensor)

    @property
    def factors(self) -> int:
        """Numbers in the factors of all products."""
        return sum(factor.numel() for pair in self.products for factor in pair)

    def add_product(self, left: Tensor, right: Tensor) -> None:
        """Adds left.t() @ right; copies factors that it keeps, because a caller may reuse its batch."""
        if self.factors + left.numel() + right.numel() < left.size(1) * right.size(1):
            self.products.append((left.clone(), right.clone()))
        else:
            self.add(left.t() @ right)

    def add_activity(self, activity: Activity | None) -> None:
        """Adds the activity of one more batch."""
        if self.activity is None or activity is None:
            self.activity = activity or self.activity
        else:
            self.activity = (self.activity[0] + activity[0], self.activity[1] + activity[1])

    def merge(self, other: StagedGradient) -> None:
        """Adds all of another one."""
        self.pairs += other.pairs
        self.add_activity(other.activity)
        if other.tensor is not None:
            self.add(other.tensor)
        for left, right in other.products:
            self.add_product(left, right)

    def is_finite(self) -> bool:
        """Returns whether it holds neither NaN nor infinity (nor adds up to one)."""
        parts = [factor for pair in (*self.products, *self.pairs) for factor in pair]
        parts += [] if self.tensor is None else [self.tensor]
        return all(math.isfinite(float(part.sum())) for part in parts)

    def fold_into(self, moment: Any, decay: float, factor: float) -> None:
        """moment = decay * moment + factor * gradient; where the factor is 0, even infinities count as 0.

        Args:
            moment: a tensor of the dense shape, or something else that products can be folded into, while nothing but
                products is staged.
        """
        if not isinstance(moment, Tensor):
            moment.fold(self.products if factor != 0 else [], decay, factor)
            return
        if factor != 0:
            for left, right in self.products:
                moment.addmm_(left.t(), right, beta=decay, alpha=factor)
                decay = 1.0
        if factor == 0 or self.tensor is None:
            moment.mul_(decay)
        elif factor == 1:
            torch.add(self.tensor, moment, alpha=decay, out=moment)  # one pass over memory instead of two
        else:
            moment.mul_(decay).add_(self.tensor, alpha=factor)

    def multiplied_out(self, factor: float, like: Tensor) -> Tensor:
        """factor * gradient as one tensor, of the dtype and strides of `like`; not to be written to."""
        if factor == 1 and self.tensor is not None and not self.products:
            return self.tensor
        total = torch.zeros_like(like)
        self.fold_into(total, 1.0, factor)
        return total
