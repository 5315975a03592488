"""Which layers compute densely: a committed, deterministic table, the same on every machine with one
instruction set.

A choice changes the last bits of a result, so layers measure only on request (`SparseLayer.tune`,
`regrow.sparsify(…, tune=True)`), and keep the measurements.
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from regrow.ops import isa

from ._contract import CompressedLayer
from .blocked import BlockedTensor, to_blocked

Step = Callable[[], object]
Clock = Callable[[], float]
Where = tuple[int, int, int, int]  # batch, height, width, whether blocked

# Density from which torch's dense operator is faster than the sparse kernel, forward and backward together.
# (conv: kernels larger than 1x1; pointwise: 1x1; pixels: few images without gradients, forward alone.) x86-64-v3 was
# measured on Zen 3: in processor time on one core at densities 0.2 to 0.6 (docs/decisions/0006-compressed-storage.md),
# pixels on two cores; the others stand in until they are.
_DENSE_FROM = {
    "x86-64-v4": {"linear": 0.4, "conv": 0.6, "pointwise": 0.6, "pixels": 0.4},
    "x86-64-v3": {"linear": 0.4, "conv": 0.6, "pointwise": 0.6, "pixels": 0.4},
    "baseline": {"linear": 0.15, "conv": 0.15, "pointwise": 0.1, "pixels": 0.1},
}
_PROBED = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_ROUNDS, _SECONDS = 3, 0.02  # of each comparison, at least


def dense_from(kind: str) -> float:
    """The density at and above which a layer of this kind computes through torch's dense operator.

    Args:
        kind: "linear", "conv", "pointwise" (1x1 convolution) or "pixels" (any convolution of few images, forward
            alone).

    Returns:
        A density in (0, 1]; 0 if no native kernel is loaded, so that every layer computes densely.

    Example:
        >>> regrow.nn.tuning.dense_from("pointwise") <= 1
        True
    """
    table = _DENSE_FROM.get(isa())
    return table[kind] if table else 0.0


# -- measuring


def can_measure() -> bool:
    """Returns whether there are native kernels; the reference is the dense operator itself."""
    return isa() in _DENSE_FROM


def measure(layer: CompressedLayer, where: Where, clock: Clock = time.perf_counter) -> int:
    """The number of active weights from which a layer's dense computation is faster, for inputs of one kind.

    Forward and backward, with the gradient of the input, of random active sets; bisects densities between 0.02 and 1.
    Draws nothing from torch's global generator. Takes at least fifteen steps of each kind.

    Args:
        layer: any SparseLayer; its own values and gradients are left alone.
        where: (batch, height, width, blocked) of the input.
        clock: seconds.
    """
    size = layer.dense_shape.numel()
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        input = layer._example(where).requires_grad_()

        def is_dense_faster(density: float) -> bool:
            positions = torch.randperm(size)[: math.ceil(density * size)].sort().values
            dense, sparse = (_step(layer, positions, input, compute) for compute in ("dense", "sparse"))
            return _is_faster(dense, sparse, clock)

        density = crossing(is_dense_faster)
    return size + 1 if density is None else math.ceil(density * size)


def crossing(is_dense_faster: Callable[[float], bool]) -> float | None:
    """The least probed density at which dense is faster, by bisection; None where it never is.

    Example:
        >>> crossing(lambda density: density > 0.33)
        0.35
    """
    at = bisect.bisect_left(_PROBED, True, key=is_dense_faster)
    return _PROBED[at] if at < len(_PROBED) else None


def _step(layer: CompressedLayer, positions: Tensor, input: Tensor, compute: str) -> Step:
    """Forward and backward of a layer like this one with other positions."""
    twin = layer._blank()
    twin.set_topology(positions, twin.weight.new_ones(positions.numel()))
    twin.compute = compute
    like_input = to_blocked if isinstance(input, BlockedTensor) else lambda output: output
    grad = like_input(torch.ones(twin._run(input).shape, dtype=input.dtype))

    def step() -> None:
        like_input(twin._run(input)).backward(grad)
        input.grad = twin.weight.grad = None

    return step


def _is_faster(first: Step, second: Step, clock: Clock) -> bool:
    """Returns whether the first is at least as fast as the second: the best of some rounds each, in turn."""
    best, start, rounds = [math.inf, math.inf], clock(), 0
    while rounds < _ROUNDS or clock() - start < _SECONDS:
        for which, step in enumerate((first, second)):
            before = clock()
            step()
            best[which] = min(best[which], clock() - before)
        rounds += 1
    return best[0] <= best[1]
