"""Nothing that is handed in is trusted; every error says what was found and what is wanted."""

import pytest
import torch

from ops.cases import CONV, LINEAR, conv_case, linear_case, ops, pixel_case
from regrow.ops import conv2d_plan, info, lanes, linear_plan, pixel_plan

needs_native = pytest.mark.skipif(not info()["loaded"], reason="the reference reads indices, not plans")


@pytest.mark.parametrize(
    ("indices", "text"),
    [
        (torch.tensor([3, 3]), "duplicate|twice|again|unique"),
        (torch.tensor([4, 3]), "sorted|ascending"),
        (torch.tensor([-1, 3]), "-1"),
        (torch.tensor([3, 20]), "20"),
        (torch.tensor([[1, 3]]), "1 dimension"),
        (torch.tensor([1.0, 3.0]), "int32 or int64"),
        (torch.tensor([True, False]), "int32 or int64"),
    ],
)
@pytest.mark.parametrize("narrow", [False, True])
def test_bad_indices(indices, text, narrow):
    indices = indices.int() if narrow and indices.dtype == torch.int64 else indices
    with pytest.raises(RuntimeError, match=text):
        linear_plan(indices, 4, 5, torch.float32)


@needs_native
def test_bad_geometry():
    indices = torch.tensor([0])
    good = {
        "weight_shape": (2, 2, 3, 3),
        "stride": (1, 1),
        "padding": (0, 0),
        "dilation": (1, 1),
        "image": (5, 5),
    }
    for name, value in [
        ("weight_shape", (2, 2, 3)),
        ("weight_shape", (2, 0, 3, 3)),
        ("stride", (0, 1)),
        ("padding", (-1, 0)),
        ("dilation", (1, 0)),
        ("image", (0, 5)),
    ]:
        with pytest.raises(RuntimeError, match=name):
            conv2d_plan(indices, **{**good, name: value}, dtype=torch.float32)
    with pytest.raises(ValueError, match="does not fit"):  # the kernel is larger than the image
        conv2d_plan(indices, **{**good, "image": (2, 5)}, dtype=torch.float32)
    with pytest.raises(TypeError, match="bfloat16"):
        conv2d_plan(indices, **good, dtype=torch.bfloat16)


def swapped(args, place, value):
    return (*args[:place], value, *args[place + 1 :])


@needs_native
def test_bad_linear_arguments():
    args, grad = linear_case(*LINEAR[1])
    x, weight, bias, indices, plan, _ = args
    for place, value, text in [
        (0, x[:, 1:], "input has shape"),
        (0, x.double(), "float64, wanted float32"),
        (0, x.bfloat16(), "bfloat16, wanted float32"),
        (0, x[0], "2 dimensions"),
        (1, weight[1:], "new plan"),
        (1, weight.view(-1), "new plan"),
        (1, weight.half(), "float16"),
        (1, weight.repeat(1, 2)[:, :1], "contiguous"),
        (2, bias[1:], "bias has shape"),
        (4, torch.tensor([1]), "make_plan again"),
        (4, torch.tensor([1, 2]), "what regrow.ops.make_plan returned"),
        (4, torch.tensor([1.0]), "what regrow.ops.make_plan returned"),
    ]:
        with pytest.raises(RuntimeError, match=text):
            ops.sparse_linear(*swapped(args, place, value))
    with pytest.raises(RuntimeError, match="rows"):
        ops.sparse_linear_backward(grad[1:], x, weight, indices, plan, True, True, True)
    with pytest.raises(RuntimeError, match="grad_output has shape"):
        ops.sparse_linear_backward(grad[:, 1:], x, weight, indices, plan, True, True, True)
    conv_args, _ = conv_case(*CONV[0])
    with pytest.raises(RuntimeError, match="wanted that of a linear layer"):
        ops.sparse_linear(*swapped(args, 4, conv_args[4]))


@needs_native
def test_bad_conv2d_arguments():
    args, grad = conv_case(*CONV[0])
    x, weight, bias, _, _, shape, width, *_ = args
    for place, value, text in [
        (0, x[1:], "takes"),
        (0, x.double(), "float64, wanted float32"),
        (0, torch.randn(shape), "takes"),
        (0, torch.cat([x, x])[::2], "contiguous"),
        (1, weight[1:], "new plan"),
        (2, bias[1:], "bias has shape"),
        (5, [shape[0] + 100, *shape[1:]], "takes"),
        (5, [*shape[:3], shape[3] + 1], "each image size"),
        (5, shape[:3], "each image size"),
        (5, [-1, *shape[1:]], "-1"),
        (6, width + 1, "lanes"),
    ]:
        with pytest.raises(RuntimeError, match=text):
            ops.sparse_conv2d(*swapped(args, place, value))
    with pytest.raises(RuntimeError, match="grad_output"):
        ops.sparse_conv2d_backward(grad[1:], x, weight, *args[3:], True, True, True)


@needs_native
def test_bad_arguments_of_few_images():
    args = pixel_case(*CONV[0])
    x, weight, bias, indices, *_ = args
    for place, value, text in [
        (0, x[:, 1:], "was made for"),
        (0, x[0], "4 dimensions"),
        (0, x.double(), "weight is float32, wanted float64"),
        (0, x.transpose(2, 3), "not contiguous"),
        (0, x.half(), "float16, wanted float32 or float64"),
        (1, weight[1:], "new plan"),
        (2, bias[1:], "bias has shape"),
        (4, conv_case(*CONV[0])[0][4], "make_plan again"),
    ]:
        with pytest.raises(RuntimeError, match=text):
            ops.sparse_conv2d_pixels(*swapped(args, place, value))
    with pytest.raises(RuntimeError, match="occurs twice"):
        pixel_plan(indices[[0, 0]], *args[5:], (8, 8))
    with pytest.raises(ValueError, match="does not fit an input of 1x1"):
        pixel_plan(indices, args[5], [1, 1], [0, 0], [1, 1], (1, 1))


@needs_native
def test_data_that_vectors_cannot_be_loaded_from():
    args, _ = conv_case(*CONV[0])
    apart = torch.cat([args[0].new_zeros(1), args[0]])[1:]
    with pytest.raises(RuntimeError, match=r"64 bytes.*input\.clone\(\)"):
        ops.sparse_conv2d(*swapped(args, 0, apart))
    torch.testing.assert_close(ops.sparse_conv2d(*swapped(args, 0, apart.clone())), ops.sparse_conv2d(*args))


@needs_native
def test_bad_conversions():
    x = torch.randn(2, 3, 4, 4)
    with pytest.raises(RuntimeError, match="4 dimensions"):
        ops.to_blocked(x[0], lanes(x.dtype))
    with pytest.raises(RuntimeError, match="float16"):
        ops.to_blocked(x.half(), lanes(x.dtype))
    with pytest.raises(RuntimeError, match="lanes"):
        ops.to_blocked(x, 3)
    with pytest.raises(RuntimeError, match="takes"):
        ops.from_blocked(torch.zeros(5), [2, 3, 4, 4], lanes(x.dtype))
