"""The gradient of 3x3 convolutions by Winograd's algorithm: that of autograd, for every plane and padding."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from regrow.nn import SparseConv2d
from regrow.ops import conv2d_weight_grad_winograd, winograd, winograd_pays


def of_autograd(x, dy, padding):
    weight = torch.zeros(dy.size(1), x.size(1), 3, 3, dtype=x.dtype, requires_grad=True)
    F.conv2d(x, weight, padding=padding).backward(dy)
    return weight.grad


def pair(plane, padding, dtype=torch.float64, images=3, inputs=5, outputs=4):
    torch.manual_seed(0)
    out = [side + 2 * pad - 2 for side, pad in zip(plane, padding, strict=True)]
    return torch.randn(images, inputs, *plane, dtype=dtype), torch.randn(images, outputs, *out, dtype=dtype)


PLANES = [(4, 4), (8, 8), (7, 14), (5, 3), (2, 2), (1, 1), (2, 9), (1, 6), (13, 32)]


@pytest.mark.parametrize("padding", [(1, 1), (0, 0), (2, 1), (1, 3)])
@pytest.mark.parametrize("plane", PLANES)
def test_it_is_the_gradient_of_autograd(plane, padding):
    if any(side + 2 * pad < 3 for side, pad in zip(plane, padding, strict=True)):
        plane = tuple(side + 2 for side in plane)
    x, dy = pair(plane, padding)
    gradient = conv2d_weight_grad_winograd(x, dy, padding)
    assert gradient.is_contiguous()
    torch.testing.assert_close(gradient, of_autograd(x, dy, padding), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("together", [1, 60, 10**9])
def test_parts_of_a_batch_add_up(monkeypatch, together):
    monkeypatch.setattr(winograd, "_TOGETHER", together)
    x, dy = pair((6, 6), (1, 1), images=7)
    torch.testing.assert_close(conv2d_weight_grad_winograd(x, dy, (1, 1)), of_autograd(x, dy, (1, 1)))


def test_any_strides_and_no_image():
    x, dy = pair((6, 6), (1, 1))
    expected = conv2d_weight_grad_winograd(x, dy, (1, 1))
    last = (tensor.to(memory_format=torch.channels_last) for tensor in (x, dy))
    assert torch.equal(conv2d_weight_grad_winograd(*last, (1, 1)), expected)
    assert not conv2d_weight_grad_winograd(x[:0], dy[:0], (1, 1)).any()


@pytest.mark.parametrize("plane", [(2, 2), (4, 4), (16, 16)])
def test_rounding_in_float32_is_far_below_what_growth_can_tell_apart(plane):
    x, dy = pair(plane, (1, 1), torch.float32, images=16, inputs=64, outputs=64)
    exact = of_autograd(x.double(), dy.double(), (1, 1))
    error = conv2d_weight_grad_winograd(x, dy, (1, 1)) - exact
    assert error.norm() < 1e-5 * exact.norm()


def test_autocast_does_not_round_it():
    x, dy = pair((6, 6), (1, 1), torch.float32)
    expected = conv2d_weight_grad_winograd(x, dy, (1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv2d_weight_grad_winograd(x, dy, (1, 1)), expected)


def test_layers_for_which_it_is_made():
    ones = (1, 1)
    assert winograd_pays((128, 64, 3, 3), ones, ones)
    assert not winograd_pays((64, 64, 3, 3), ones, ones)  # the transforms would cost more than they save
    for shape, stride, dilation in (
        ((128, 128, 1, 1), ones, ones),
        ((128, 128, 3, 1), ones, ones),
        ((128, 128, 3, 3), (2, 1), ones),
        ((128, 128, 3, 3), ones, (1, 2)),
    ):
        assert not winograd_pays(shape, stride, dilation)


def test_a_layer_computes_by_it_only_when_asked():
    dense = torch.nn.Conv2d(80, 80, 3, padding=1)
    layer = SparseConv2d.from_dense(dense, mask=torch.rand(80, 80, 3, 3) < 0.1)
    x, dy = pair((4, 4), (1, 1), torch.float32, inputs=80, outputs=80)
    by_torch, by_winograd = layer.dense_weight_grad(x, dy), layer.dense_weight_grad(x, dy, winograd=True)
    assert torch.equal(by_winograd, conv2d_weight_grad_winograd(x, dy, (1, 1)))
    assert not torch.equal(by_torch, by_winograd)
    torch.testing.assert_close(by_torch, by_winograd, rtol=1e-4, atol=1e-4)
