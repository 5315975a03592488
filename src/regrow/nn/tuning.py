"""Which layers compute densely: a committed, deterministic table, the same on every machine with one
instruction set.

A choice changes the last bits of a result, so nothing is measured here unless it is asked for.
"""

from __future__ import annotations

from regrow.ops import isa

# Density from which torch's dense operator is faster than the sparse kernel, forward and backward together.
# (conv: kernels larger than 1x1; pointwise: 1x1.) x86-64-v3 was measured, on one core of Zen 3, in processor time, at
# densities 0.2 to 0.6 (docs/decisions/0006-compressed-storage.md); the others stand in until they are.
_DENSE_FROM = {
    "x86-64-v4": {"linear": 0.4, "conv": 0.6, "pointwise": 0.6},
    "x86-64-v3": {"linear": 0.4, "conv": 0.6, "pointwise": 0.6},
    "baseline": {"linear": 0.15, "conv": 0.15, "pointwise": 0.1},
}


def dense_from(kind: str) -> float:
    """The density at and above which a layer of this kind computes through torch's dense operator.

    Args:
        kind: "linear", "conv" or "pointwise" (1x1 convolution).

    Returns:
        A density in (0, 1]; 0 where no native kernel is loaded, so that every layer computes densely.

    Example:
        >>> regrow.nn.tuning.dense_from("pointwise") <= 1
        True
    """
    table = _DENSE_FROM.get(isa())
    return table[kind] if table else 0.0
