"""SparseConv2d: nn.Conv2d that holds and computes only its active weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regrow.ops import (
    conv2d_arguments,
    conv2d_plan,
    conv2d_weight_grad,
    conv2d_weight_grad_at,
    conv2d_weight_grad_winograd,
    conv_output_shape,
    dense_product,
    isa,
    pixel_plan,
    sparse_conv2d_nchw,
    sparse_conv2d_pixels,
    winograd_pays,
)
from regrow.topology.indices import active_positions

from . import tuning
from ._layer import SparseLayer
from .blocked import BlockedTensor, SparseConv2dBlocked, stays_ordinary, to_blocked


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def resolve_padding(padding, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]):
    """nn.Conv2d's padding as numbers. "same" needs stride 1 and an equal share on both sides."""
    if not isinstance(padding, str):
        return _pair(padding)
    if padding == "valid":
        return (0, 0)
    total = [dilation[d] * (kernel[d] - 1) for d in (0, 1)]
    if padding != "same" or stride != (1, 1) or total[0] % 2 or total[1] % 2:
        raise ValueError(
            f"SparseConv2d: padding={padding!r} with kernel {kernel}, stride {stride}, dilation {dilation} "
            "is not supported; give padding as numbers, equal on both sides, or keep the layer masked or dense"
        )
    return (total[0] // 2, total[1] // 2)


class SparseConv2d(SparseLayer):
    """nn.Conv2d with an unstructured-sparse weight, on the CPU, in float32 or float64.

    Args:
        in_channels: as in nn.Conv2d.
        out_channels: as in nn.Conv2d.
        kernel_size: as in nn.Conv2d.
        stride: as in nn.Conv2d.
        padding: as in nn.Conv2d; "same" and "valid" too.
        dilation: as in nn.Conv2d.
        bias: whether to add a bias.
        positions: (active,) int64, ascending flat positions in (out_channels, in_channels, kH, kW); default none.
        dtype: float32 or float64; default torch's.
        groups: must be 1. Padding modes other than "zeros" are not supported either.

    Shape:
        input (N, C, H, W) or (C, H, W), any strides, channels_last too; output as nn.Conv2d, contiguous.

    Attributes:
        blocked_output: whether an ordinary input gives a BlockedTensor too, so that the layers that follow stay in
            the kernels' layout. Set by `regrow.sparsify`. A BlockedTensor always gives one, also where the layer
            computes densely.

    Raises:
        TypeError, ValueError: an argument is not supported; the message names it and the remedy.

    Example:
        >>> layer = SparseConv2d.from_dense(nn.Conv2d(8, 4, 3, padding=1), mask=torch.rand(4, 8, 3, 3) < 0.1)
        >>> layer(torch.randn(2, 8, 6, 6)).shape
        torch.Size([2, 4, 6, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        positions: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ):
        if groups != 1:
            raise ValueError(f"SparseConv2d: groups={groups}, wanted 1; keep a grouped convolution masked or dense")
        kernel = _pair(kernel_size)
        super().__init__((out_channels, in_channels, *kernel), bias, positions, dtype)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, 1
        self.kernel_size, self.stride, self.dilation = kernel, _pair(stride), _pair(dilation)
        self.padding = resolve_padding(padding, kernel, self.stride, self.dilation)
        self.blocked_output = False
        self.kind = "pointwise" if kernel == (1, 1) else "conv"

    @classmethod
    def from_dense(cls, module: nn.Conv2d, mask: Tensor | None = None, positions: Tensor | None = None) -> SparseConv2d:
        """The sparse form of a dense layer: values where `mask`, the same bias parameter.

        Args:
            module: an nn.Conv2d, groups 1, padding_mode "zeros"; on the CPU, float32 or float64, or on the meta device
                (see `SparseLinear.from_dense`).
            mask: bool, of the weight's shape; default the non-zero weights.
            positions: (active,) int64, ascending; instead of a mask.
        """
        name = f"from_dense({module})"
        if module.padding_mode != "zeros":
            raise ValueError(
                f"{name}: padding_mode is {module.padding_mode!r}, wanted 'zeros'; keep it masked or dense"
            )
        positions = active_positions(name, module.weight, mask, positions)
        geometry = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups)
        layer = cls(module.in_channels, module.out_channels, *geometry, bias=False, dtype=module.weight.dtype)  # type: ignore[arg-type]
        layer._take_over(module, positions)
        return layer

    def to_dense(self) -> nn.Conv2d:
        """A plain nn.Conv2d with zeros where inactive, its own copy of everything."""
        sizes = (self.in_channels, self.out_channels, self.kernel_size)
        geometry = (self.stride, self.padding, self.dilation, 1)
        has_bias = self.bias is not None
        dense = nn.Conv2d(*sizes, *geometry, has_bias, device="meta")  # type: ignore[arg-type]
        dense.weight = nn.Parameter(self.dense_weight().detach(), self.weight.requires_grad)
        if self.bias is not None:
            dense.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        return dense.train(self.training)

    @torch.no_grad()
    def dense_weight_grad(self, input: Tensor, grad_output: Tensor, winograd: bool = False) -> Tensor:
        """Gradient of all weights, inactive ones included: (out_channels, in_channels, kH, kW).

        Args:
            input: (N, in_channels, H, W) or without N.
            grad_output: (N, out_channels, H', W') or without N.
            winograd: use Winograd's algorithm where it pays (`regrow.ops.winograd`): a 3x3 kernel, stride and
                dilation 1, and many channels. The result differs by rounding.
        """
        if input.dim() == 3:
            input, grad_output = input.unsqueeze(0), grad_output.unsqueeze(0)
        if winograd and winograd_pays(self.dense_shape, self.stride, self.dilation):
            return conv2d_weight_grad_winograd(input, grad_output, self.padding)
        return conv2d_weight_grad(input, grad_output, self.dense_shape, self.stride, self.padding, self.dilation)

    @torch.no_grad()
    def weight_grad_at(self, input: Tensor, grad_output: Tensor, positions: Tensor) -> Tensor:
        """Gradient of some weights, active or not, in time and memory proportional to their number: (positions,).

        Args:
            input: (N, in_channels, H, W) or without N.
            grad_output: (N, out_channels, H', W') or without N.
            positions: (k,) int64, ascending and unique, flat in (out_channels, in_channels, kH, kW).
        """
        if input.dim() == 3:
            input, grad_output = input.unsqueeze(0), grad_output.unsqueeze(0)
        geometry = (self.dense_shape, self.stride, self.padding, self.dilation)
        return conv2d_weight_grad_at(input, grad_output, positions, geometry)

    def _run(self, input: Tensor) -> Tensor:
        if isinstance(input, BlockedTensor):
            with torch._C.DisableTorchFunctionSubclass():  # else each attribute of it takes microseconds
                return self._images(input)
        if input.dim() == 3:
            return self._images(input.unsqueeze(0)).squeeze(0)
        return self._images(input)

    def _images(self, input: Tensor) -> Tensor:
        parameters: dict[str, Any] = self._parameters  # `self.weight` would take a microsecond
        try:
            weight, bias = parameters["weight"], parameters["bias"]
        except KeyError:
            weight, bias = self._values()
        if input.dtype != weight.dtype:
            input = self._accept(input)
        blocked = self.blocked_output or isinstance(input, BlockedTensor)
        if not isinstance(input, BlockedTensor) and stays_ordinary(input) and isa() != "reference":
            return self._few_images(input, weight, bias)
        key = (input.shape, weight.dtype, blocked)
        prepared = self._prepared.get(key)
        if prepared is None:
            prepared = self._prepare(key)
        if not prepared:
            return self._dense(input, bias)
        arguments, shape = prepared
        if not blocked:
            return sparse_conv2d_nchw(input, weight, bias, arguments, shape, self)
        input = to_blocked(input, "SparseConv2d")
        output, _ = SparseConv2dBlocked.apply(input, weight, bias, arguments, shape, self)
        return output

    def _few_images(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Ordinary tensors in and out, and no graph: so that one image does not cost as much as a vector of them."""
        key = (input.shape, "pixels")
        arguments = self._prepared.get(key)
        if arguments is None:
            self._check_images(input.shape)
            geometry = (list(self.dense_shape), list(self.stride), list(self.padding), list(self.dilation))
            dense = self.computes_dense() if self.compute != "auto" else self.density >= tuning.dense_from("pixels")
            plan = () if dense else (self.indices, pixel_plan(self.indices, *geometry, input.shape[2:]), *geometry)
            arguments = self._keep(self._prepared, key, plan)
        if not arguments:
            return self._dense_operator(input, self.dense_weight(), bias)
        return sparse_conv2d_pixels(input, weight, bias, arguments)

    def _check_images(self, shape: torch.Size) -> None:
        if len(shape) != 4 or shape[1] != self.in_channels:
            wanted = f"(N, {self.in_channels}, H, W)"
            raise RuntimeError(f"{self._label()}: input has shape {tuple(shape)}, wanted {wanted}")

    def _prepare(self, key: tuple[torch.Size, torch.dtype, bool]) -> tuple:
        """(arguments, output shape) of the kernels for inputs of one kind; nothing where torch's dense one computes."""
        shape, dtype, blocked = key
        self._check_images(shape)
        batch, _, height, width = shape
        if self.computes_dense((batch, height, width, int(blocked))):
            return self._keep(self._prepared, key, ())
        geometry = (self.dense_shape, self.stride, self.padding, self.dilation)
        arguments = conv2d_arguments(self.indices, self._plan(height, width, dtype), shape, dtype, geometry)
        return self._keep(self._prepared, key, (arguments, conv_output_shape(shape, *geometry)))

    def _plan(self, height: int, width: int, dtype: torch.dtype) -> Tensor:
        key = (height, width, dtype)
        plan = self._plans.get(key)
        if plan is None:
            geometry = (self.dense_shape, self.stride, self.padding, self.dilation)
            plan = conv2d_plan(self.indices, *geometry, (height, width), dtype)
            self._keep(self._plans, key, plan)
        return plan

    def _dense(self, input: Tensor, bias: Tensor | None) -> Tensor:
        """Through torch's operator; in a blocked network out of the layout and into it again."""
        blocked = isinstance(input, BlockedTensor) or (self.blocked_output and isa() != "reference")
        if isinstance(input, BlockedTensor):
            input = input.dense("SparseConv2d, dense")
        geometry = (self.stride, self.padding, self.dilation)
        output = dense_product(input, self.dense_weight(), bias, geometry, self)
        return to_blocked(output, "SparseConv2d, dense") if blocked else output

    def _dense_operator(self, input: Tensor, dense: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(input, dense, bias, self.stride, self.padding, self.dilation)

    def _blank(self) -> SparseConv2d:
        sizes = (self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, self.dilation)
        return SparseConv2d(*sizes, bias=False, dtype=self.weight.dtype)

    def _example(self, where: tuning.Where) -> Tensor:
        batch, height, width, blocked = where
        images = torch.randn(batch, self.in_channels, height, width, dtype=self.weight.dtype)
        return to_blocked(images) if blocked else images

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, {self._sparse_repr()}"
        )
