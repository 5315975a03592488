"""The operators between convolutions against their plain-torch reference, and pools against torch's own."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from ops.cases import ops
from regrow.ops import info, lanes, reference_activations
from regrow.ops._layout import blocked_size, planes
from regrow.ops._windows import adaptive, sliding

DTYPES = [torch.float32, torch.float64]
SHAPES = [(5, 3, 6, 4), (16, 4, 8, 8), (3, 2, 1, 1), (17, 5, 7, 9), (8, 2, 2, 2), (1, 1, 40, 3), (70, 1, 2, 2)]
POOLS = [((2, 2), (2, 2), (0, 0)), ((3, 3), (2, 2), (1, 1)), ((2, 3), (1, 2), (1, 0)), ((1, 1), (2, 2), (0, 0))]
needs_native = pytest.mark.skipif(not info()["loaded"], reason="the reference does not check its input")


def blocked(x):
    return ops.to_blocked(x, lanes(x.dtype))


def ordinary(data, shape):
    return ops.from_blocked(data, list(shape), lanes(data.dtype))


def assert_close(got, want, tolerance=None):
    tolerance = tolerance or (2e-5 if want.dtype == torch.float32 else 1e-11)
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def compare(name, *arguments):
    """The operator and its reference, everything that is blocked with its zeros around and behind."""
    got, want = getattr(ops, name)(*arguments), getattr(reference_activations, name)(*arguments)
    for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (got, want)), strict=True):
        assert_close(a, b)
    return got


def channels(count, dtype):
    return torch.rand(count, dtype=dtype) + 0.5, torch.randn(count, dtype=dtype)


def line(count, dtype):
    """Scale, center and shift."""
    return torch.rand(count, dtype=dtype) + 0.5, torch.randn(count, dtype=dtype), torch.randn(count, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_lines(shape, dtype):
    torch.manual_seed(0)
    x, other = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    lines = list(itertools.product(*((values, None) for values in line(shape[1], dtype))))
    where = (list(shape), lanes(dtype))
    for given, residual, relu in itertools.product(lines, [None, blocked(other)], [False, True]):
        compare("blocked_affine", blocked(x), *given, residual, relu, *where)
    for given in lines:
        compare("blocked_relu_backward", blocked(other), blocked(x), *given, *where)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("seed", "p"), [(0, 0.3), (2**62 + 12345, 0.5), (7, 0.0), (7, 1.0)])
def test_dropout(seed, p, shape, dtype):
    torch.manual_seed(0)
    x, slopes = blocked(torch.randn(shape, dtype=dtype)), line(shape[1], dtype)
    for relu in (False, True):
        got = compare("blocked_dropout", x, *slopes, relu, seed, p, 1.5, list(shape), lanes(dtype))
    other = ops.blocked_dropout(x, *slopes, True, seed + 2**32, p, 1.5, list(shape), lanes(dtype))
    if p in (0.3, 0.5) and len(got) > 1000:
        assert not torch.equal(got, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pool", POOLS)
def test_pools(pool, shape, dtype):
    torch.manual_seed(0)
    windows = sliding(shape[2:], *pool)
    if windows is None:
        assert any(
            size + 2 * padding < kernel for size, kernel, padding in zip(shape[2:], pool[0], pool[2], strict=True)
        )
        return
    table, out = windows
    x, grad = torch.randn(shape, dtype=dtype), torch.randn(*shape[:2], *out, dtype=dtype)
    where, given = (table, list(out), list(shape), lanes(dtype)), line(shape[1], dtype)
    for relu in (False, True):
        compare("blocked_max_pool", blocked(x), *given, relu, *where)
        compare("blocked_max_pool_backward", blocked(grad), blocked(x), *given, relu, relu, *where)
    compare("blocked_avg_pool", blocked(x), *where)
    compare("blocked_avg_pool_backward", blocked(grad), *where)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES[:2] + SHAPES[3:])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(training, shape, dtype):
    torch.manual_seed(0)
    x, (weight, bias) = torch.randn(shape, dtype=dtype) * 2 + 1, channels(shape[1], dtype)
    running = torch.randn(shape[1], dtype=dtype), torch.rand(shape[1], dtype=dtype) + 0.5
    got, want = [[r.clone() for r in running] for _ in range(2)]
    where = (list(shape), lanes(dtype))
    for optional in [(weight, bias), (None, None)]:
        rest = (training, 0.3, 1e-5, *where)
        lines = ops.blocked_norm(blocked(x), *optional, *got, *rest)
        expected = reference_activations.blocked_norm(blocked(x), *optional, *want, *rest)
        for a, b in zip((*lines, *got), (*expected, *want), strict=True):
            assert_close(a, b)
    scale, shift, mean, invstd = lines
    pools = [None, *(sliding(shape[2:], *pool) for pool in POOLS)]
    for windows, relu, wanted in itertools.product(pools, [False, True], [True, False]):
        table, out = windows or (None, shape[2:])
        grad = torch.randn(*shape[:2], *out, dtype=dtype)
        rest = (scale, mean, shift, relu, table, list(out), *where, wanted)
        compare("blocked_norm_backward", blocked(grad), blocked(x), weight, mean, invstd, training, *rest)


def kinds():
    return itertools.product((1, 2, 3), (1, 2, 3), (0, 1), (1, 2), (False, True), (False, True), (None, 5))


def test_windows_are_those_of_torch():
    x = torch.randn(2, 2, 7, 8, dtype=torch.float64)
    served = 0
    for kernel, stride, padding, dilation, ceil, counted, divisor in kinds():
        windows = sliding((7, 8), (kernel,) * 2, (stride,) * 2, (padding,) * 2, (dilation,) * 2, ceil, counted, divisor)
        if windows is None:
            assert padding * 2 > kernel  # torch refuses
            continue
        table, out = windows
        where = (table, list(out), list(x.shape), lanes(x.dtype))
        served += 1
        want = F.max_pool2d(x, kernel, stride, padding, dilation, ceil)
        assert torch.equal(
            ordinary(ops.blocked_max_pool(blocked(x), None, None, None, False, *where), want.shape), want
        )
        if dilation == 1:
            want = F.avg_pool2d(x, kernel, stride, padding, ceil, counted, divisor)
            assert_close(ordinary(ops.blocked_avg_pool(blocked(x), *where), want.shape), want)
    assert served > 200
    for size in itertools.product((1, 2, 3, 7, 9), (1, 3, 8)):
        table, out = adaptive((7, 8), size)
        where = (table, list(out), list(x.shape), lanes(x.dtype))
        want = F.adaptive_avg_pool2d(x, size)
        assert_close(ordinary(ops.blocked_avg_pool(blocked(x), *where), want.shape), want)
        want = F.adaptive_max_pool2d(x, size)
        assert torch.equal(
            ordinary(ops.blocked_max_pool(blocked(x), None, None, None, False, *where), want.shape), want
        )


@pytest.mark.parametrize("special", [[1.0, 1.0, 0.0, 1.0], [0.0, float("nan"), 2.0, float("nan")], [-0.0, 0.0, -1, 0]])
def test_the_pixel_that_wins_is_torchs(special):
    x = torch.tensor(special).view(1, 1, 2, 2).requires_grad_()
    pooled = F.max_pool2d(x, 2)
    pooled.backward(torch.ones(1, 1, 1, 1))
    table, out = sliding((2, 2), (2, 2), (2, 2), (0, 0))
    where = (table, list(out), [1, 1, 2, 2], lanes(x.dtype))
    got = ops.blocked_max_pool(blocked(x.detach()), None, None, None, False, *where)
    torch.testing.assert_close(ordinary(got, (1, 1, 1, 1)), pooled.detach(), equal_nan=True)
    back = (blocked(torch.ones(1, 1, 1, 1)), blocked(x.detach()), None, None, None, False, False, *where)
    if info()["loaded"]:
        assert torch.equal(ordinary(ops.blocked_max_pool_backward(*back), x.shape), x.grad)


@needs_native
def test_nan_passes_a_relu_as_in_torch():
    x = torch.tensor([float("nan"), -1.0, 2.0, float("inf")]).view(1, 1, 2, 2).requires_grad_()
    torch.relu(x).sum().backward()
    where = ([1, 1, 2, 2], lanes(x.dtype))
    got = ordinary(ops.blocked_affine(blocked(x.detach()), None, None, None, None, True, *where), x.shape)
    torch.testing.assert_close(got, torch.relu(x.detach()), equal_nan=True)
    back = ops.blocked_relu_backward(blocked(torch.ones(1, 1, 2, 2)), blocked(x.detach()), None, None, None, *where)
    assert torch.equal(ordinary(back, x.shape), x.grad)


@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_moments_of_many_values_are_exact(mean):
    """131072 values a channel, the mean far from zero: no worse than rounding the values themselves."""
    torch.manual_seed(0)
    x = torch.randn(128, 4, 32, 32) + mean
    _, _, got, invstd = ops.blocked_norm(
        blocked(x), None, None, None, None, True, 0.1, 0.0, list(x.shape), lanes(x.dtype)
    )
    wide = x.double()
    torch.testing.assert_close(got.double(), wide.mean((0, 2, 3)), rtol=1e-7, atol=3e-8)
    torch.testing.assert_close(invstd.double(), wide.var((0, 2, 3), correction=0).rsqrt(), rtol=3e-7, atol=0)


def test_results_too_large_for_the_caches():
    """They are written past them, and blocks are visited in another order. Whole numbers: kinks and ties are exact."""
    torch.manual_seed(0)
    shape = (49, 5, 160, 160)
    data, where = blocked(torch.randint(-4, 5, shape).float()), (list(shape), lanes(torch.float32))
    assert data.nbytes > 24 << 20
    given = torch.tensor([0.5, 1, -1, 2, 1]), torch.tensor([1.0, -1, 0, 2, 3]), torch.tensor([0.0, 1, -2, 1, 0])
    for residual in (None, data):
        compare("blocked_affine", data, *given, residual, True, *where)
    weight, mean, invstd = torch.rand(3, 5)
    for pool in (None, sliding(shape[2:], (8, 8), (8, 8), (0, 0))):
        table, out = pool or (None, shape[2:])
        rest = (True, *given, True, table, list(out), *where, True)
        arguments = blocked(torch.randn(*shape[:2], *out)), data, weight, mean, invstd, *rest
        got, want = ops.blocked_norm_backward(*arguments), reference_activations.blocked_norm_backward(*arguments)
        assert_close(got[0], want[0])


@needs_native
def test_batch_norm_does_not_depend_on_threads():
    torch.manual_seed(0)
    shape, x = [32, 24, 16, 16], torch.randn(32, 24, 16, 16)
    before, results = torch.get_num_threads(), []
    weight, bias = channels(24, x.dtype)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            lines = ops.blocked_norm(blocked(x), weight, bias, None, None, True, 0.1, 1e-5, shape, lanes(x.dtype))
            scale, shift, mean, invstd = lines
            rest = (True, scale, mean, shift, True, None, [], shape, lanes(x.dtype), True)
            back = ops.blocked_norm_backward(blocked(x), blocked(x), weight, mean, invstd, *rest)
            results.append([*lines, *back])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_does_not_exist_stays_zero(dtype):
    """Margins, lanes of absent images and the tail: a shift must not leak into them."""
    shape = [5, 2, 4, 4]
    x, width = torch.randn(shape, dtype=dtype), lanes(dtype)
    scale, center, shift = line(2, dtype)
    y = ops.blocked_affine(blocked(x), scale, center, shift + 10, None, False, shape, width)
    inside = planes(torch.arange(blocked_size(shape, width)), shape, width)
    real = inside.permute(0, 4, 1, 2, 3).reshape(-1, *shape[1:])[: shape[0]]
    outside = torch.ones_like(y, dtype=torch.bool)
    outside[real.flatten()] = False
    assert outside.any()
    assert not y[outside].any()


def test_opcheck():
    shape, x = [5, 3, 6, 4], torch.randn(5, 3, 6, 4)
    width, (scale, center, shift) = lanes(x.dtype), line(3, x.dtype)
    table, out = sliding((6, 4), (2, 2), (2, 2), (0, 0))
    pool, grad = (table, list(out), shape, width), blocked(torch.randn(5, 3, *out))
    norm = (scale, shift, torch.zeros(3), torch.ones(3), True, 0.1, 1e-5, shape, width)
    back = (blocked(x), scale, shift, scale, True, scale, center, shift, True)
    for name, arguments in [
        ("blocked_affine", (blocked(x), scale, center, shift, None, True, shape, width)),
        ("blocked_relu_backward", (blocked(x), blocked(x), scale, center, shift, shape, width)),
        ("blocked_max_pool", (blocked(x), scale, center, shift, True, *pool)),
        ("blocked_max_pool_backward", (grad, blocked(x), scale, center, shift, True, True, *pool)),
        ("blocked_avg_pool", (blocked(x), *pool)),
        ("blocked_avg_pool_backward", (grad, *pool)),
        ("blocked_norm", (blocked(x), *norm)),
        ("blocked_norm_backward", (grad, *back, *pool, True)),
        ("blocked_norm_backward", (blocked(x), *back, None, [], shape, width, False)),
    ]:
        torch.library.opcheck(getattr(ops, name).default, arguments)


@needs_native
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"scale": torch.ones(4)}, "scale has shape .*wanted 3"),
        ({"scale": torch.ones(3).double()}, "scale is float64, wanted float32"),
        ({"input": torch.zeros(7)}, "input has shape"),
        ({"input": torch.zeros(7, dtype=torch.int64)}, "int64, wanted float32 or float64"),
        ({"windows": torch.zeros(5, 4, dtype=torch.int64)}, "window 0"),
        ({"windows": torch.tensor([[0, 7, 1, 7], [0, 4, 1, 4]]), "out": [1, 1]}, "wanted 0 <= begin < end <= 6"),
        ({"windows": torch.zeros(5, 4)}, "windows is float32"),
        ({"out": [3]}, "out_size"),
        ({"out": [3, 3]}, "windows has shape"),
        ({"lanes": 5}, "lanes"),
    ],
)
def test_bad_input_is_refused(change, text):
    x = torch.randn(5, 3, 6, 4)
    table, out = sliding((6, 4), (2, 2), (2, 2), (0, 0))
    good = {"input": blocked(x), "scale": torch.ones(3), "windows": table, "out": list(out), "lanes": lanes(x.dtype)}
    given = {**good, **change}
    rest = (given["windows"], given["out"], list(x.shape), given["lanes"])
    with pytest.raises(RuntimeError, match=text):
        ops.blocked_max_pool(given["input"], given["scale"], None, None, False, *rest)
