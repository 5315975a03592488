"""The element types that the kernels compute in. `csrc/kernels/dtypes.h` is the same list in C++."""

import torch

DTYPES = (torch.float32, torch.float64)


def name_of(dtype: torch.dtype) -> str:
    """The dtype's name, e.g. "float32"."""
    return str(dtype).removeprefix("torch.")


DTYPE_NAMES = " or ".join(map(name_of, DTYPES))
"""For texts: "float32 or float64"."""
