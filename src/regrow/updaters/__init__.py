"""Updaters: when and how the active sets of a model change. `updater` is the core, each other file a method or two."""

from .sparse_momentum import SparseMomentum
from .static import Static
from .updater import Updater

__all__ = ["SparseMomentum", "Static", "Updater"]
