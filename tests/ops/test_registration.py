"""Schemas, fakes and derivatives, as torch's own checks see them."""

import pytest
import torch

from ops.cases import CONV, LINEAR, conv_case, linear_case, ops, pixel_case
from regrow.ops import lanes


def differentiable(args):
    """Clones of the arguments of which the input, the weight and the bias require a gradient."""
    return tuple(a.clone().requires_grad_() if i < 3 else a for i, a in enumerate(args))


@pytest.mark.parametrize("case", [LINEAR[0], LINEAR[6]])
def test_opcheck_linear(case):
    args, grad = linear_case(*case)
    torch.library.opcheck(ops.sparse_linear.default, differentiable(args))
    torch.library.opcheck(ops.sparse_linear_backward.default, (grad, args[0], args[1], *args[3:5], True, False, True))


@pytest.mark.parametrize("case", [CONV[0], CONV[1]])
def test_opcheck_conv2d(case):
    args, grad = conv_case(*case)
    torch.library.opcheck(ops.sparse_conv2d.default, differentiable(args))
    torch.library.opcheck(ops.sparse_conv2d_backward.default, (grad, args[0], args[1], *args[3:], True, True, False))


def test_opcheck_conv2d_of_few_images():
    args = pixel_case(*CONV[1])
    torch.library.opcheck(ops.sparse_conv2d_pixels.default, args)
    with pytest.raises(RuntimeError, match="has no derivative; call it under"):
        ops.sparse_conv2d_pixels(*differentiable(args))


def test_opcheck_conversions():
    x = torch.randn(5, 3, 4, 6, requires_grad=True)
    torch.library.opcheck(ops.to_blocked.default, (x, lanes(x.dtype)))
    blocked = ops.to_blocked(x.detach(), lanes(x.dtype)).requires_grad_()
    torch.library.opcheck(ops.from_blocked.default, (blocked, [5, 3, 4, 6], lanes(x.dtype)))


@pytest.mark.parametrize("case", [LINEAR[0], LINEAR[3], LINEAR[5]])
def test_gradcheck_linear(case):
    args, _ = linear_case(*case, torch.float64)
    x, weight, bias, *rest = differentiable(args)
    assert torch.autograd.gradcheck(lambda x, w, b: ops.sparse_linear(x, w, b, *rest), (x, weight, bias))


@pytest.mark.parametrize("case", [(2, 3, 2, (5, 4), (3, 3), (1, 1), (1, 1), (1, 1), 0.3), CONV[16]])
def test_gradcheck_conv2d(case):
    args, _ = conv_case(*case, torch.float64)
    _, weight, bias, *rest = differentiable(args)
    shape = rest[2]
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    out = ops.sparse_conv2d(args[0], *args[1:])

    def run(x, w, b):
        return ops.sparse_conv2d(ops.to_blocked(x, lanes(x.dtype)), w, b, *rest)

    mask = (out != 0).to(out.dtype)  # margins stay zero whatever the bias
    assert torch.autograd.gradcheck(lambda *a: run(*a) * mask, (x, weight, bias))


def test_meta_tensors_have_the_right_shapes():
    args, grad = conv_case(*CONV[1])
    meta = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in args]
    assert ops.sparse_conv2d(*meta).shape == ops.sparse_conv2d(*args).shape
    dx, dw, db = ops.sparse_conv2d_backward(grad.to("meta"), meta[0], meta[1], *meta[3:], True, True, True)
    assert (dx.shape, dw.shape, db.shape) == (args[0].shape, args[1].shape, args[2].shape)
