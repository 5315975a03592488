"""The operators between convolutions, with random shapes, for `fuzz.py`.

Values are small whole numbers and lines have powers of two for slopes, so that sums are exact: ties and kinks are then
the same ones for kernel and reference, and there are many. Where NaN and infinities are about, torch is the reference.
"""

import torch
from torch.nn import functional as F

from ops.cases import ops
from regrow.ops import lanes, reference_activations
from regrow.ops._windows import adaptive, sliding
from regrow.ops.reference import to_blocked

SPECIAL = (float("nan"), float("inf"), -float("inf"))


def close(got, want):
    tolerance = 1e-3 if want.dtype == torch.float32 else 1e-10
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, equal_nan=True)


def compare(got, want):
    for a, b in zip(got, want, strict=True):
        close(a, b)


def blocked(x):
    return to_blocked(x, lanes(x.dtype))


def agree(name, *arguments):
    """The kernel and its reference; all that is blocked with its zeros around and behind."""
    got, want = getattr(ops, name)(*arguments), getattr(reference_activations, name)(*arguments)
    compare(*((r,) if isinstance(r, torch.Tensor) else r for r in (got, want)))


def random_shape(rng, smallest=0):
    """Whole blocks of images and tails, planes of a pixel, a row or a column, and odd ones."""
    batch = rng.choice([size for size in (0, 1, 2, 5, 7, 8, 16, 17, 33) if size >= smallest])
    return [batch, rng.choice([1, 1, 2, 3, 5]), rng.choice([1, 2, 3, 5, 8, 11]), rng.choice([1, 2, 3, 4, 7, 9])]


def whole_numbers(shape, dtype, rng, special=False):
    x = torch.randint(-4, 5, shape).to(dtype)
    if special and x.numel():
        for _ in range(rng.randint(1, 1 + x.numel() // 3)):
            x.view(-1)[rng.randrange(x.numel())] = rng.choice(SPECIAL)
    return x


def random_line(channels, dtype, rng):
    scale = torch.tensor([rng.choice([-2.0, -1.0, 0.5, 1.0, 2.0]) for _ in range(channels)], dtype=dtype)
    given = (scale, whole_numbers([channels], dtype, rng), whole_numbers([channels], dtype, rng))
    return [values if rng.random() < 0.75 else None for values in given]


def random_windows(image, rng):
    """The windows of a random pool, and torch's max pool with these."""
    if rng.random() < 0.3:
        size = (rng.randint(1, 9), rng.randint(1, 9))
        return adaptive(tuple(image), size), lambda x: F.adaptive_max_pool2d(x, size)
    kind, windows = None, None
    while windows is None:
        kernel, stride, dilation = (tuple(rng.randint(1, top) for _ in "hw") for top in (3, 3, 2))
        padding = tuple(rng.randint(0, k // 2) for k in kernel)
        kind = (kernel, stride, padding, dilation, rng.random() < 0.5)
        windows = sliding(tuple(image), *kind)
    return windows, lambda x: F.max_pool2d(x, *kind)


def fuzz_lines(rng, dtype):
    shape = random_shape(rng)
    x, other = blocked(whole_numbers(shape, dtype, rng, True)), blocked(torch.randn(shape, dtype=dtype))
    line, where = random_line(shape[1], dtype, rng), (shape, lanes(dtype))
    agree("blocked_affine", x, *line, rng.choice([None, other]), rng.random() < 0.5, *where)
    agree("blocked_relu_backward", other, x, *line, *where)


def fuzz_dropout(rng, dtype):
    shape = random_shape(rng)
    x, line = blocked(whole_numbers(shape, dtype, rng, True)), random_line(shape[1], dtype, rng)
    noise = (rng.getrandbits(63), rng.choice([0.0, 0.25, rng.random(), 1.0]), 2.0)
    agree("blocked_dropout", x, *line, rng.random() < 0.5, *noise, shape, lanes(dtype))


def fuzz_max_pool(rng, dtype):
    shape = random_shape(rng, 1)
    (table, out), pool = random_windows(shape[2:], rng)
    x, (scale, center, shift) = whole_numbers(shape, dtype, rng, True), random_line(shape[1], dtype, rng)
    relu, gated = rng.choice([(False, False), (True, False), (True, True)])
    y = reference_activations._line(x, scale, center, shift)
    y = (torch.relu(y) if relu else y).requires_grad_()
    want, grad = pool(y), torch.randn(*shape[:2], *out, dtype=dtype)
    want.backward(grad)
    dx = torch.where(y <= 0, 0, y.grad) if gated else y.grad
    pooled, where = (scale, center, shift, relu), (table, list(out), shape, lanes(dtype))
    close(ops.blocked_max_pool(blocked(x), *pooled, *where), blocked(want.detach()))
    close(ops.blocked_max_pool_backward(blocked(grad), blocked(x), *pooled, gated, *where), blocked(dx))


def fuzz_avg_pool(rng, dtype):
    shape = random_shape(rng)
    (table, out), _ = random_windows(shape[2:], rng)
    where = (table, list(out), shape, lanes(dtype))
    agree("blocked_avg_pool", blocked(torch.randn(shape, dtype=dtype)), *where)
    agree("blocked_avg_pool_backward", blocked(torch.randn(*shape[:2], *out, dtype=dtype)), *where)


def fuzz_norm(rng, dtype):
    shape, training = random_shape(rng, 2), rng.random() < 0.7
    channels, where = shape[1], (shape, lanes(dtype))
    x = blocked(whole_numbers(shape, dtype, rng))
    weight, bias = (rng.choice([None, torch.randn(channels, dtype=dtype)]) for _ in range(2))
    running = [torch.randn(channels, dtype=dtype), torch.rand(channels, dtype=dtype) + 0.5]
    if training and rng.random() < 0.3:
        running = [None, None]
    ours, theirs = [[None if r is None else r.clone() for r in running] for _ in range(2)]
    rest = (training, 0.3, 1e-3, *where)
    found = ops.blocked_norm(x, weight, bias, *ours, *rest)
    compare(found, reference_activations.blocked_norm(x, weight, bias, *theirs, *rest))
    compare(*([r for r in moments if r is not None] for moments in (ours, theirs)))
    (table, out), _ = random_windows(shape[2:], rng)
    table, out = rng.choice([(table, list(out)), (None, shape[2:])])
    grad = blocked(torch.randn(*shape[:2], *out, dtype=dtype))
    line, relu = random_line(channels, dtype, rng), rng.random() < 0.5
    behind = (training, *line, relu, table, out, *where, rng.random() < 0.8)
    agree("blocked_norm_backward", grad, x, weight, *found[2:], *behind)


FUZZERS = (fuzz_lines, fuzz_dropout, fuzz_max_pool, fuzz_avg_pool, fuzz_norm)
