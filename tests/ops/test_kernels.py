"""Every operator against its plain-torch reference."""

import itertools

import pytest
import torch

from ops.cases import CONV, LINEAR, active, conv_case, linear_case, ops, pixel_case
from regrow.ops import info, lanes, linear_plan, plan_bytes, reference

DTYPES = [torch.float32, torch.float64]
WANTED = list(itertools.product([True, False], repeat=3))


def assert_close(got, want):
    tolerance = 1e-4 if want.dtype == torch.float32 else 1e-11
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", LINEAR)
def test_linear(case, dtype):
    args, grad = linear_case(*case, dtype)
    assert_close(ops.sparse_linear(*args), reference.sparse_linear(*args))
    without_bias = (*args[:2], None, *args[3:])
    assert_close(ops.sparse_linear(*without_bias), reference.sparse_linear(*without_bias))
    backward = (grad, args[0], args[1], args[3], args[4], True, True, True)
    for got, want in zip(
        ops.sparse_linear_backward(*backward), reference.sparse_linear_backward(*backward), strict=True
    ):
        assert_close(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONV)
def test_conv2d(case, dtype):
    args, grad = conv_case(*case, dtype)
    assert_close(ops.sparse_conv2d(*args), reference.sparse_conv2d(*args))
    without_bias = (*args[:2], None, *args[3:])
    assert_close(ops.sparse_conv2d(*without_bias), reference.sparse_conv2d(*without_bias))
    backward = (grad, args[0], args[1], *args[3:], True, True, True)
    for got, want in zip(
        ops.sparse_conv2d_backward(*backward), reference.sparse_conv2d_backward(*backward), strict=True
    ):
        assert_close(got, want)


WIDE = [  # tiles of every number of vectors, and several of them
    *((2, 3, 4, (5, width), (3, 3), (1, 1), (1, 1), (1, 1), 0.4) for width in range(2, 60, 3)),
    (1, 5, 3, (64, 67), (3, 3), (1, 1), (1, 1), (1, 1), 0.2),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [*CONV, *WIDE])
def test_conv2d_of_few_images(case, dtype):
    args = pixel_case(*case, dtype)
    assert_close(ops.sparse_conv2d_pixels(*args), reference.sparse_conv2d_pixels(*args))
    without_bias = (*args[:2], None, *args[3:])
    assert_close(ops.sparse_conv2d_pixels(*without_bias), reference.sparse_conv2d_pixels(*without_bias))


def test_conv2d_of_few_images_depends_on_no_number_of_threads():
    args = pixel_case(3, 64, 96, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), 0.3)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = ops.sparse_conv2d_pixels(*args)
        torch.set_num_threads(3)
        assert torch.equal(ops.sparse_conv2d_pixels(*args), alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("wanted", WANTED)
def test_only_what_is_wanted_is_computed(wanted):
    for make, forward, backward, case in [
        (linear_case, ops.sparse_linear, ops.sparse_linear_backward, LINEAR[1]),
        (conv_case, ops.sparse_conv2d, ops.sparse_conv2d_backward, CONV[1]),
    ]:
        args, grad = make(*case)
        inputs = (grad, args[0], args[1], *args[3:5], *(args[5:] if forward is ops.sparse_conv2d else ()))
        everything = backward(*inputs, True, True, True)
        for got, want, asked in zip(backward(*inputs, *wanted), everything, wanted, strict=True):
            assert torch.equal(got, want) if asked else got.numel() == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 3, 4, 6), (16, 2, 1, 1), (1, 1, 2, 2), (35, 4, 3, 1), (0, 3, 4, 4)])
def test_layout_conversions(shape, dtype):
    x = torch.randn(shape, dtype=dtype)
    for like in (x, x.to(memory_format=torch.channels_last), x.transpose(2, 3)):
        blocked = ops.to_blocked(like, lanes(dtype))
        assert torch.equal(blocked, reference.to_blocked(like, lanes(dtype)))
        assert torch.equal(ops.from_blocked(blocked, like.shape, lanes(dtype)), like)


def test_same_bits_every_time():
    args, grad = conv_case(*CONV[0])
    backward = (grad, args[0], args[1], *args[3:], True, True, True)
    first, second = ops.sparse_conv2d_backward(*backward), ops.sparse_conv2d_backward(*backward)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_one_and_two_threads_agree():
    args, grad = conv_case(16, 33, 35, (9, 9), (3, 3), (1, 1), (1, 1), (1, 1), 0.2)
    backward = (grad, args[0], args[1], *args[3:], True, True, True)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append([ops.sparse_conv2d(*args), *ops.sparse_conv2d_backward(*backward)])
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        for got, want in zip(result, results[0], strict=True):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


def test_rows_of_a_wider_matrix():
    args, _ = linear_case(*LINEAR[1])
    wide = torch.randn(args[0].shape[0], args[0].shape[1] + 3)
    wide[:, : args[0].shape[1]] = args[0]
    view = wide[:, : args[0].shape[1]]
    assert torch.equal(ops.sparse_linear(view, *args[1:]), ops.sparse_linear(*args))
    columns = args[0].t().contiguous().t()
    assert torch.equal(ops.sparse_linear(columns, *args[1:]), ops.sparse_linear(*args))


@pytest.mark.skipif(not info()["loaded"], reason="the reference sums in torch's order")
@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_of_inputs_cost_no_bits(dtype):
    """An output is summed in the order of its inputs, so a layer equals two layers, one after the other, at any cut."""
    (x, weight, bias, indices, plan, outputs), _ = linear_case(1, 3000, 70, 0.05, dtype)
    whole = ops.sparse_linear(x, weight, bias, indices, plan, outputs)
    rows, columns = indices.long() // 3000, indices.long() % 3000
    for cut in (1, 500, 1024, 2900):
        sums = bias
        for low, high in ((0, cut), (cut, 3000)):
            inside = (columns >= low) & (columns < high)
            part = (rows[inside] * (high - low) + columns[inside] - low).int()
            part_plan = linear_plan(part, outputs, high - low, dtype)
            values = weight[inside]
            sums = ops.sparse_linear(x[:, low:high].contiguous(), values, sums, part, part_plan, outputs)[0]
        assert torch.equal(sums, whole[0]), cut


@pytest.mark.parametrize("batch", [1, 63, 64, 65, 128])
def test_bias_gradient_adds_rows_in_order(batch):
    """The same bits for a column wherever it is in the matrix, so however many columns are summed together."""
    args, _ = linear_case(batch, 8, 203, 0.1)
    column = torch.randn(batch, 1)
    backward = (column.expand(-1, 203).contiguous(), args[0], args[1], args[3], args[4], False, False, True)
    _, _, bias = ops.sparse_linear_backward(*backward)
    assert torch.equal(bias, bias[:1].expand(203))
    torch.testing.assert_close(bias[0].double(), column.double().sum(), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not info()["loaded"], reason="the reference keeps no plan")
def test_a_plan_is_small_and_is_freed():
    indices = active(512 * 512, 0.05)
    plan = linear_plan(indices, 512, 512, torch.float32)
    assert 0 < plan_bytes(plan) < 32 * len(indices) + 100_000
    number = plan.clone()
    plan_bytes(number)
    del plan
    with pytest.raises(RuntimeError, match="make_plan again"):
        plan_bytes(number)
