"""A disk of its own, which fills up, and a limit on the size of files."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FILLER = "filler"


class Unavailable(Exception):
    """A fault cannot be made to happen here."""


@contextmanager
def small_disk(folder: Path, mebibytes: int = 4) -> Iterator[None]:
    """Within `with`, the folder is a disk that holds so much; only root may have that."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable("a disk of its own can only be mounted by root") from error
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, left: int) -> None:
    """Fills a disk but for about `left` bytes."""
    with open(folder / FILLER, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 14))
        except OSError:
            file.truncate(max(0, file.tell() - left))


@contextmanager
def file_limit() -> Iterator[Callable[[int], None]]:
    """Yields a function that limits the size of files, in bytes; the limit is lifted at the end."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
