"""Finds, loads and describes the native library; says loudly, once, when there is none."""

from __future__ import annotations

import ctypes
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from ._allocator import pages_kept
from ._dtypes import DTYPES, name_of

LIBRARY = Path(os.environ.get("REGROW_LIBRARY") or Path(__file__).with_name("libregrow.so"))
NOTE = LIBRARY.with_suffix(".absent")  # left by setup.py where it built no library: why, and the remedy
_REBUILD = (
    "install a C++ compiler (g++ or clang++), then run `pip install --no-build-isolation "
    "--force-reinstall --no-deps regrow` (in a checkout: `make native`)"
)
_SHORT = {"base": "baseline", "v3": "x86-64-v3", "v4": "x86-64-v4"}
_MALLOC = (
    "LD_PRELOAD",
    "GLIBC_TUNABLES",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TOP_PAD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
)


class _Unavailable(Exception):
    """Why there are no native kernels, and the remedy."""

    def __init__(self, reason: str, remedy: str):
        super().__init__(reason)
        self.remedy = remedy


def _open() -> ctypes.CDLL:
    """The library. Raises _Unavailable."""
    if os.environ.get("REGROW_NO_NATIVE") == "1":
        raise _Unavailable("REGROW_NO_NATIVE=1 switches them off", "unset REGROW_NO_NATIVE to use them")
    chosen = os.environ.get("REGROW_LIBRARY")
    remedy = f"unset REGROW_LIBRARY, which names it, or {_REBUILD}" if chosen else _REBUILD
    if NOTE.exists() and not LIBRARY.exists():
        why, remedy = NOTE.read_text().splitlines()
        raise _Unavailable(f"{LIBRARY} was not built: {why}", remedy)
    if not LIBRARY.exists():
        raise _Unavailable(f"{LIBRARY} {'does not exist' if chosen else 'was not built'}", remedy)
    try:
        torch.ops.load_library(str(LIBRARY))
        library = ctypes.CDLL(str(LIBRARY))
        library.regrow_isas.restype = ctypes.c_char_p
        library.regrow_isa_runs.restype = ctypes.c_bool
        return library
    except (OSError, AttributeError) as error:
        reason = f"{LIBRARY} exists but does not load under torch {torch.__version__}: {error}"
        raise _Unavailable(reason, remedy) from error


def _names(library: ctypes.CDLL) -> list[str]:
    """Instruction sets compiled in, lowest first."""
    return library.regrow_isas().decode().split(",")


def available_isas() -> list[str]:
    """Instruction sets that are compiled in and that this processor runs, lowest first.

    Returns:
        Some of `["baseline", "x86-64-v3", "x86-64-v4"]`; empty when the native library is not loaded.
    """
    if _library is None:
        return []
    return [name for name in _names(_library) if _library.regrow_isa_runs(name.encode())]


def _choose_isa(library: ctypes.CDLL) -> str:
    """Use the best instruction set, or the one that `REGROW_ISA` names; return its name. Raises _Unavailable."""
    runs = available_isas()
    asked = os.environ.get("REGROW_ISA") or runs[-1]
    name = _SHORT.get(asked, asked)
    if name not in runs:
        raise _Unavailable(
            f"REGROW_ISA={asked!r} cannot be used here; this processor runs {runs} of the compiled {_names(library)}",
            f"unset REGROW_ISA or name one of {runs}",
        )
    library.regrow_isa_use(name.encode())
    return name


def isa() -> str:
    """Instruction set in use: "x86-64-v4", "x86-64-v3", "baseline", or "reference" without native kernels.

    Raises:
        RuntimeError: `REGROW_ISA` names one that is not there. Nothing is computed with another in its place.
    """
    if _library is not None and _reason:
        raise RuntimeError(f"regrow: {_reason}. Remedy: {_remedy}.")
    return _isa


def lanes(dtype: torch.dtype) -> int:
    """Images side by side in a blocked activation, for the instruction set in use. Raises as `isa`."""
    isa()
    return _lanes[dtype]


def info() -> dict[str, Any]:
    """Returns what the operators run on: for `regrow doctor` and for the record beside a measurement.

    Returns:
        A dict with `loaded` (bool), `reason` and `remedy` (if the native kernels cannot be used, else ""), `library`
        (path), `isa` ("x86-64-v4", "x86-64-v3", "baseline", "reference", or "none" if `REGROW_ISA` names one that is
        not there), `available_isas`, `threads` (torch's intra-op threads), `torch` (version) and `allocator` (the
        environment settings that change malloc, those that are set).

    Example:
        >>> regrow.ops.info()["isa"]
        'x86-64-v3'
    """
    return {
        "loaded": _library is not None,
        "reason": _reason,
        "remedy": _remedy,
        "library": str(LIBRARY),
        "isa": _isa,
        "available_isas": available_isas(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "allocator": {name: os.environ[name] for name in _MALLOC if name in os.environ}
        | ({"keep_pages": "on"} if pages_kept() else {}),
    }


_library: ctypes.CDLL | None = None
_isa, _reason, _remedy = "reference", "", ""
_lanes = {dtype: 32 // dtype.itemsize for dtype in DTYPES}  # of the reference, which has no vectors
try:
    _library = _open()
    _isa = "none"
    _isa = _choose_isa(_library)
    _lanes = {dtype: _library.regrow_lanes(name_of(dtype).encode()) for dtype in DTYPES}
except _Unavailable as _error:
    _reason, _remedy = str(_error), _error.remedy


def warn_if_absent() -> None:
    """Warn that the reference path is in use. Called once, when `regrow.ops` is imported."""
    if _library is None:
        warnings.warn(
            f"regrow: the native kernels are not loaded ({_reason}); compressed layers run on plain torch, "
            f"correct but no faster than dense. Remedy: {_remedy}.",
            RuntimeWarning,
            stacklevel=2,
        )
