"""Finds, loads and describes the native library; says loudly, once, when there is none."""

from __future__ import annotations

import ctypes
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from regrow.ops._allocator import pages_kept

LIBRARY = Path(os.environ.get("REGROW_LIBRARY") or Path(__file__).with_name("libregrow.so"))
_REBUILD = (
    "Remedy: install a C++ compiler (g++ or clang++), then run `pip install --no-build-isolation "
    "--force-reinstall --no-deps regrow` (in a checkout: `make native`)."
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


def _absent() -> str | None:
    """Why not even to try, or None."""
    if os.environ.get("REGROW_NO_NATIVE") == "1":
        return "REGROW_NO_NATIVE=1 is set"
    if not LIBRARY.exists():
        return f"{LIBRARY} was not built"
    return None


def _open() -> tuple[ctypes.CDLL | None, str]:
    """The library and an empty string, or None and why it is not loaded."""
    why = _absent()
    if why is not None:
        return None, why
    try:
        torch.ops.load_library(str(LIBRARY))
        return ctypes.CDLL(str(LIBRARY)), ""
    except OSError as error:
        return None, f"{LIBRARY} exists but does not load under torch {torch.__version__}: {error}"


def _names(library: ctypes.CDLL) -> list[str]:
    """Instruction sets compiled in, lowest first."""
    library.regrow_isas.restype = ctypes.c_char_p
    return library.regrow_isas().decode().split(",")


def available_isas() -> list[str]:
    """Instruction sets that are compiled in and that this processor runs, lowest first.

    Returns:
        Some of `["baseline", "x86-64-v3", "x86-64-v4"]`; empty when the native library is not loaded.
    """
    if _library is None:
        return []
    return [name for name in _names(_library) if _library.regrow_isa_runs(name.encode())]


def _choose_isa() -> str:
    """Use the best instruction set, or the one that `REGROW_ISA` names; return its name."""
    runs = available_isas()
    asked = os.environ.get("REGROW_ISA") or runs[-1]
    name = _SHORT.get(asked, asked)
    if name not in runs:
        raise RuntimeError(
            f"regrow: REGROW_ISA={asked!r} cannot be used here; this processor runs {runs} "
            f"of the compiled {_names(_library) if _library else []}. "
            f"Remedy: unset REGROW_ISA or name one of {runs}."
        )
    assert _library is not None
    _library.regrow_isa_use(name.encode())
    return name


def isa() -> str:
    """Instruction set in use: "x86-64-v4", "x86-64-v3", "baseline", or "reference" without native kernels."""
    return _isa


def info() -> dict[str, Any]:
    """What the operators run on: for `regrow doctor` and for the record beside a measurement.

    Returns:
        A dict with `loaded` (bool), `reason` (why not loaded, else ""), `library` (path), `isa` ("x86-64-v4",
        "x86-64-v3", "baseline" or "reference"), `available_isas`, `threads` (torch's intra-op threads),
        `torch` (version) and `allocator` (the environment settings that change malloc, those that are set).

    Example:
        >>> regrow.ops.info()["isa"]
        'x86-64-v3'
    """
    return {
        "loaded": _library is not None,
        "reason": _reason,
        "library": str(LIBRARY),
        "isa": _isa,
        "available_isas": available_isas(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "allocator": {name: os.environ[name] for name in _MALLOC if name in os.environ}
        | ({"keep_pages": "on"} if pages_kept() else {}),
    }


_library, _reason = _open()
_isa = "reference" if _library is None else _choose_isa()
LANES_F32 = 8 if _library is None else _library.regrow_lanes_f32()
LANES_F64 = 4 if _library is None else _library.regrow_lanes_f64()


def warn_if_absent() -> None:
    """Warn that the reference path is in use. Called once, when `regrow.ops` is imported."""
    if _library is None:
        warnings.warn(
            f"regrow: the native kernels are not loaded ({_reason}); compressed layers run on plain torch, "
            f"correct but no faster than dense. {_REBUILD}",
            RuntimeWarning,
            stacklevel=3,
        )
