"""Which layers compute densely: a committed, deterministic table, the same on every machine with one
instruction set.

A choice changes the last bits of a result, so nothing is measured here unless it is asked for.
"""

from __future__ import annotations

from regrow.ops import isa

# Density from which torch's dense operator is faster than the sparse kernel, forward and backward together.
# (conv: kernels larger than 1x1; pointwise: 1x1.) Measured by `regrow bench layers`; see docs/.
_DENSE_FROM = {
    "x86-64-v4": {"linear": 0.6, "conv": 0.6, "pointwise": 0.35},
    "x86-64-v3": {"linear": 0.6, "conv": 0.5, "pointwise": 0.35},
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
