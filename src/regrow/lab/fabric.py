"""Lightning Fabric, imported in a third of the time.

Importing `lightning_fabric` imports torchmetrics where that is installed, to ask its version, and that brings
torchvision and transformers. Here a module without content stands in for it meanwhile; the version is then read from
the metadata of the package, and whoever needs torchmetrics later imports the real one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

__all__ = ["CSVLogger", "Fabric", "Logger", "TensorBoardLogger", "seed_everything"]


@contextmanager
def _without_content(name: str) -> Iterator[None]:
    """Within `with`, an import of a package that is not loaded yet gives a module that is empty."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = ModuleType(name)
    try:
        yield
    finally:
        del sys.modules[name]


with _without_content("torchmetrics"):
    from lightning_fabric import Fabric, seed_everything
    from lightning_fabric.loggers import CSVLogger, Logger, TensorBoardLogger
