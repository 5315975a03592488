"""Updaters: when and how the active sets of a model change. `registry` has the methods, each in a file of its own."""

from .base import Updater
from .composed import ComposedUpdater
from .registry import *  # noqa: F403
from .states import GatheredState, ShardedState

__all__ = ["ComposedUpdater", "GatheredState", "ShardedState", "Updater"]
