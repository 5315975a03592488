"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["naming", "write_atomically"]


@contextmanager
def write_atomically(path: str | os.PathLike[str], previous: Path | None = None) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed to it once written; a failure leaves the old file as it was.

    Args:
        previous: the name that the old file gets, in the same folder; None: it goes.

    Example:
        >>> with write_atomically("summary.json") as temporary:
        ...     temporary.write_text("{}")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        with naming(path):
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        if previous and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Adds this file's name to an OSError without one, such as that of a full disk.

    Example:
        >>> with naming("metrics.jsonl"), open("metrics.jsonl", "a") as file:
        ...     count = file.write("{}")
    """
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = os.fspath(path)
        raise


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut, where folders can be synced."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
