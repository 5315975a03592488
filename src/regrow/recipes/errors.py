"""Errors that a person at the command line is meant to read: one line that ends in a remedy."""

from __future__ import annotations

__all__ = ["Interrupted", "RunError", "UsageError"]


class RunError(Exception):
    """A run cannot start or go on; exit code 1."""

    exit_code = 1


class UsageError(RunError):
    """What was asked for does not exist or does not make sense; exit code 2."""

    exit_code = 2


class Interrupted(RunError):
    """SIGINT or SIGTERM arrived; the run is saved and goes on with resume=True; exit code 130."""

    exit_code = 130
