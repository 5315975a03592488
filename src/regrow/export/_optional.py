"""Libraries that not everybody has."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["need"]


def need(module: str, extra: str) -> Any:
    """An optional library, imported.

    Raises:
        ImportError: it is not there; with what to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} cannot be imported ({error}); pip install 'regrow[{extra}]'") from error
