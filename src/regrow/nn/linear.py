"""SparseLinear: nn.Linear that holds and computes only its active weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regrow.ops import Arguments, dense_product, linear_plan, linear_weight_grad_at, sparse_linear
from regrow.topology.indices import active_positions

from ._layer import SparseLayer
from .tuning import Where


class SparseLinear(SparseLayer):
    """`input @ W.T + bias` with an unstructured-sparse W, on the CPU, in float32 or float64.

    Args:
        in_features: number of columns of the logical weight (out_features, in_features).
        out_features: number of its rows.
        bias: whether to add a bias.
        positions: (active,) int64, ascending flat positions of the active weights; default none.
        dtype: float32 or float64; default torch's.

    Shape:
        input (*, in_features), any strides; output (*, out_features).

    Raises:
        TypeError, ValueError: positions, dtype or device are not supported; the message names them and the remedy.

    Example:
        >>> layer = SparseLinear.from_dense(nn.Linear(8, 4), mask=torch.rand(4, 8) < 0.5)
        >>> layer(torch.randn(3, 8)).shape
        torch.Size([3, 4])
    """

    kind = "linear"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        positions: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__((out_features, in_features), bias, positions, dtype)
        self.in_features, self.out_features = in_features, out_features

    @classmethod
    def from_dense(cls, module: nn.Linear, mask: Tensor | None = None, positions: Tensor | None = None) -> SparseLinear:
        """The sparse form of a dense layer: values where `mask`, the same bias parameter.

        Args:
            module: an nn.Linear on the CPU, float32 or float64; or on the meta device, where it may have any size: the
                active values and the bias are then drawn by `reset_parameters`.
            mask: bool, of the weight's shape; default the non-zero weights.
            positions: (active,) int64, ascending; instead of a mask.
        """
        positions = active_positions(f"from_dense({module})", module.weight, mask, positions)
        layer = cls(module.in_features, module.out_features, bias=False, dtype=module.weight.dtype)  # draws nothing
        layer._take_over(module, positions)
        return layer

    def to_dense(self) -> nn.Linear:
        """A plain nn.Linear with zeros where inactive, its own copy of everything."""
        dense = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")  # draws nothing
        dense.weight = nn.Parameter(self.dense_weight().detach(), self.weight.requires_grad)
        if self.bias is not None:
            dense.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        return dense.train(self.training)

    @torch.no_grad()
    def dense_weight_grad(self, input: Tensor, grad_output: Tensor) -> Tensor:
        """Gradient of all weights, inactive ones included: (out_features, in_features).

        Args:
            input: (*, in_features).
            grad_output: (*, out_features).
        """
        return grad_output.reshape(-1, self.out_features).t() @ input.reshape(-1, self.in_features)

    @torch.no_grad()
    def weight_grad_at(self, input: Tensor, grad_output: Tensor, positions: Tensor) -> Tensor:
        """Gradient of some weights, active or not, in time and memory proportional to their number: (positions,).

        Args:
            input: (*, in_features).
            grad_output: (*, out_features).
            positions: (k,) int64, ascending and unique, flat in (out_features, in_features).
        """
        rows = input.reshape(-1, self.in_features)
        return linear_weight_grad_at(rows, grad_output.reshape(-1, self.out_features), positions)

    def _run(self, input: Tensor) -> Tensor:
        parameters: dict[str, Any] = self._parameters  # `self.weight` would take a microsecond
        try:
            weight, bias = parameters["weight"], parameters["bias"]
        except KeyError:
            weight, bias = self._values()
        if input.dtype != weight.dtype:
            input = self._accept(input)
        if input.size(-1) != self.in_features:
            raise RuntimeError(f"{self._label()}: input has shape {tuple(input.shape)}, wanted (*, {self.in_features})")
        rows = input if input.dim() == 2 else input.reshape(-1, self.in_features)
        key = (rows.size(0), weight.dtype)
        arguments = self._prepared.get(key)
        if arguments is None:
            arguments = self._prepare(key)
        if arguments:
            output = sparse_linear(rows, weight, bias, arguments, self)
        else:
            output = dense_product(rows, self.dense_weight(), bias, (), self)
        return output if rows is input else output.view(*input.shape[:-1], self.out_features)

    def _prepare(self, key: tuple[int, torch.dtype]) -> Arguments:
        """Returns what the kernel takes for so many rows of a dtype; nothing where torch's dense operator computes."""
        rows, dtype = key
        if self.computes_dense((rows, 1, 1, 0)):
            arguments: Arguments = ()
        else:
            arguments = (self.indices, self._plan(dtype), self.out_features)
        return self._keep(self._prepared, key, arguments)

    def _plan(self, dtype: torch.dtype) -> Tensor:
        plan = self._plans.get(dtype)
        if plan is None:
            plan = linear_plan(self.indices, self.out_features, self.in_features, dtype)
            self._keep(self._plans, dtype, plan)
        return plan

    def _dense_operator(self, input: Tensor, dense: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(input, dense, bias)

    def _blank(self) -> SparseLinear:
        return SparseLinear(self.in_features, self.out_features, bias=False, dtype=self.weight.dtype)

    def _example(self, where: Where) -> Tensor:
        return torch.randn(where[0], self.in_features, dtype=self.weight.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {self._sparse_repr()}"
