"""Errors that a person at the command line is meant to read: one line that ends in a remedy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

__all__ = ["Interrupted", "RunError", "UsageError", "lacking", "reason", "refuse_twice", "unknown"]


class RunError(Exception):
    """A run cannot start or continue; exit code 1."""

    exit_code = 1


class UsageError(RunError):
    """The request names something that does not exist or makes no sense; exit code 2."""

    exit_code = 2


class Interrupted(RunError):
    """SIGINT or SIGTERM arrived; the run is saved and continues with resume=True; exit code 130."""

    exit_code = 130


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Returns the error for an unknown name, with the most similar known ones.

    Example:
        >>> str(unknown("model", "vgg16d", ["vgg16-c", "vgg16-d"]))
        "there is no model 'vgg16d'; did you mean vgg16-d? the models are vgg16-c, vgg16-d"
    """
    known = list(known)
    close = get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return UsageError(f"there is no {kind} {name!r}; {hint}the {kind}s are {', '.join(known)}")


def refuse_twice(what: str, listed: Sequence[object]) -> None:
    """Raises UsageError where something was named twice.

    Example:
        >>> refuse_twice("seed", [0, 1])
    """
    for word in listed:
        if listed.count(word) > 1:
            raise UsageError(f"the {what} {word} is given twice; name each once")


def reason(error: Exception) -> str:
    """Returns the message of a foreign error on one line of at most 300 characters.

    Example:
        >>> reason(FileNotFoundError(2, "No such file or directory", "a.png"))
        'No such file or directory: a.png'
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:  # of a worker process of a DataLoader
        text = text.rpartition("\n")[2]
    return " ".join(text.split())[:300] or type(error).__name__


def lacking(error: ModuleNotFoundError) -> str:
    """Returns the remedy for a package that is not installed.

    Example:
        >>> lacking(ModuleNotFoundError("No module named 'sklearn'", name="sklearn"))
        "error: sklearn is not installed; pip install 'regrow[recipes]'"
    """
    return f"error: {error.name} is not installed; pip install 'regrow[recipes]'"
