"""Random shapes, densities and bad indices through every operator; meant for a library built with sanitizers.

    make sanitize        or        python tests/ops/fuzz.py --rounds 200 --seed 1

Not collected by pytest. Results are compared with the reference, so silence means correct as well as clean.
"""

import argparse
import itertools
import random

import torch
from fuzz_activations import FUZZERS, close, compare

from ops.cases import conv_case, linear_case, ops, pixel_case
from regrow.ops import available_isas, info, linear_plan, reference


def fuzz_conv(rng, dtype):
    kernel, dilation = (rng.randint(1, 4), rng.randint(1, 4)), (rng.randint(1, 3), rng.randint(1, 3))
    padding = (rng.randint(0, 3), rng.randint(0, 3))
    image = [
        rng.randint(max(1, d * (k - 1) + 1 - 2 * p), 12) for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    stride = (rng.randint(1, 3), rng.randint(1, 3))
    sizes = (rng.randint(0, 35), rng.randint(1, 40), rng.randint(1, 40))
    args, grad = conv_case(*sizes, image, kernel, stride, padding, dilation, rng.choice([0, 0.05, 0.3, 1]), dtype)
    close(ops.sparse_conv2d(*args), reference.sparse_conv2d(*args))
    backward = (
        grad,
        args[0],
        args[1],
        *args[3:],
        *rng.choice(list(itertools.product([True, False], repeat=3))),
    )
    compare(ops.sparse_conv2d_backward(*backward), reference.sparse_conv2d_backward(*backward))


def fuzz_pixels(rng, dtype):
    kernel, dilation = (rng.randint(1, 4), rng.randint(1, 4)), (rng.randint(1, 3), rng.randint(1, 3))
    padding, stride = (rng.randint(0, 3), rng.randint(0, 3)), (rng.randint(1, 3), rng.randint(1, 3))
    image = [
        rng.randint(max(1, d * (k - 1) + 1 - 2 * p), 40) for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    sizes = (rng.randint(0, 5), rng.randint(1, 20), rng.randint(1, 20))
    args = pixel_case(*sizes, image, kernel, stride, padding, dilation, rng.choice([0, 0.05, 0.3, 1]), dtype)
    close(ops.sparse_conv2d_pixels(*args), reference.sparse_conv2d_pixels(*args))


def fuzz_linear(rng, dtype):
    sizes = (rng.randint(0, 200), rng.randint(1, 300), rng.randint(1, 300))
    args, grad = linear_case(*sizes, rng.choice([0, 0.01, 0.2, 1]), dtype)
    close(ops.sparse_linear(*args), reference.sparse_linear(*args))
    backward = (
        grad,
        args[0],
        args[1],
        *args[3:5],
        *rng.choice(list(itertools.product([True, False], repeat=3))),
    )
    compare(ops.sparse_linear_backward(*backward), reference.sparse_linear_backward(*backward))


def fuzz_bad_indices(rng, dtype):
    """Damage good indices in one way; the plan must refuse them."""
    positions = sorted(rng.sample(range(2000), rng.randint(2, 50)))
    at = rng.randrange(1, len(positions))
    damage = rng.choice(["duplicate", "unsorted", "negative", "large", "float", "shape", "huge"])
    if damage == "duplicate":
        positions[at] = positions[at - 1]
    elif damage == "unsorted":
        positions[at], positions[at - 1] = positions[at - 1], positions[at]
    elif damage in ("negative", "large", "huge"):
        positions[-1] = {"negative": -rng.randint(1, 2**31), "large": 2000, "huge": 2**62}[damage]
    indices = torch.tensor(positions, dtype=torch.float32 if damage == "float" else torch.int64)
    try:
        linear_plan(indices.view(1, -1) if damage == "shape" else indices, 40, 50, dtype)
    except RuntimeError:
        return
    raise AssertionError(f"{damage} indices were accepted: {positions}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    for round_ in range(options.rounds):
        for fuzz in (fuzz_conv, fuzz_pixels, fuzz_linear, fuzz_bad_indices, *FUZZERS):
            torch.manual_seed(rng.randrange(2**31))
            fuzz(rng, rng.choice([torch.float32, torch.float64]))
        if (round_ + 1) % 50 == 0:
            print(f"{round_ + 1} rounds", flush=True)
    print(f"clean: {options.rounds} rounds on {info()['isa']} of {available_isas()}, {info()['library']}")


if __name__ == "__main__":
    main()
