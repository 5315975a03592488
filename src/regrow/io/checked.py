"""Torch files with the SHA-256 of their content, because torch.load does not check: it loads a flipped bit as a weight.

The digest is of the file as torch.save writes it, and lies behind that as the comment of the zip archive, so that
torch.load and zip programs can still read the file.
"""

from __future__ import annotations

import hashlib
import os
from typing import IO, Any

import torch

__all__ = ["DamagedFile", "load_checked", "save_checked"]

_LABEL = b"sha256 "
_COMMENT = len(_LABEL) + 2 * hashlib.sha256().digest_size
_LENGTH = 2
"""Bytes at the end of a zip archive that say how long its comment is; 0 as torch.save leaves them."""


class DamagedFile(ValueError):
    """A file that is not as it was written."""


def save_checked(content: Any, path: str | os.PathLike[str]) -> None:
    """Writes tensors and plain values with their checksum.

    Raises:
        OSError: the disk is full, or cannot be written.

    Example:
        >>> save_checked({"weight": torch.ones(2)}, "weights.pt")
        >>> torch.load("weights.pt", weights_only=True)
        {'weight': tensor([1., 1.])}
    """
    with open(path, "wb") as file:
        hashing = _HashingFile(file)
        try:
            torch.save(content, hashing)  # type: ignore[arg-type]
        except RuntimeError as error:  # torch's own, about positions; what the file said is behind it
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        file.seek(-_LENGTH, os.SEEK_END)
        file.write(_COMMENT.to_bytes(_LENGTH, "little") + _LABEL + hashing.digest)


def load_checked(path: str | os.PathLike[str], unchecked: object) -> Any:
    """The content of a file of `save_checked`, on the CPU; the file is hashed before anything in it is read.

    Args:
        unchecked: what a dict has under "format" in files of older versions, which had no checksum.

    Raises:
        DamagedFile: the checksum is another, or missing, or this is no torch file.
        OSError: the file cannot be read.

    Example:
        >>> save_checked({"format": 2, "weight": torch.ones(2)}, "weights.pt")
        >>> load_checked("weights.pt", unchecked=1)["weight"]
        tensor([1., 1.])
    """
    with open(path, "rb") as file:
        written, found = _digests(file)
        if written and written != found:
            there, here = (digest.decode(errors="replace")[:12] for digest in (found, written))
            raise DamagedFile(f"{os.fspath(path)} is damaged: its SHA-256 is {there}…, but was {here}… when written")
        file.seek(0)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # of several kinds, an OSError among them
            kind = type(error).__name__
            raise DamagedFile(f"{os.fspath(path)} is damaged or cut short: torch cannot read it ({kind})") from error
    if not written and isinstance(content, dict) and content.get("format", unchecked) != unchecked:
        raise DamagedFile(f"{os.fspath(path)} is damaged: its checksum is missing")
    return content


class _HashingFile:
    """A file for torch.save that takes the digest of what passes through."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def digest(self) -> bytes:
        return self._hash.hexdigest().encode()


def _digests(file: IO[bytes]) -> tuple[bytes, bytes]:
    """The digest that a file carries, and that of its content; both are empty where it carries none."""
    size = file.seek(0, os.SEEK_END) - _COMMENT - _LENGTH
    if size < 0:
        return b"", b""
    file.seek(size)
    tail = file.read()
    if tail[: _LENGTH + len(_LABEL)] != _COMMENT.to_bytes(_LENGTH, "little") + _LABEL:
        return b"", b""
    content = hashlib.sha256()
    file.seek(0)
    for start in range(0, size, 1 << 20):
        content.update(file.read(min(1 << 20, size - start)))
    content.update(bytes(_LENGTH))
    return tail[_LENGTH + len(_LABEL) :], content.hexdigest().encode()
