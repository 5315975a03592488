"""Keep large buffers in the process instead of giving them back to the system after every use."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h
_kept = False


def keep_pages() -> bool:
    """Makes glibc's malloc reuse large buffers, in the whole process, dense layers included.

    By default every buffer above 32 MB is mapped again and pays a page fault for each of its pages, each
    time; a training step makes and drops dozens of such activations. Memory in use does not grow; memory
    that was in use stays with the process. The same as running with MALLOC_MMAP_MAX_=0 and a large
    MALLOC_TRIM_THRESHOLD_.

    Returns:
        Whether the C library has such a switch (glibc).

    Example:
        >>> regrow.ops.keep_pages()
        True
    """
    global _kept
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    _kept = bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
    return _kept


def pages_kept() -> bool:
    """Returns whether `keep_pages` took effect in this process."""
    return _kept
