"""Updaters: when and how the active sets of a model change. `registry` has the methods, each in a file of its own."""

from .base import Updater
from .composed import ComposedUpdater
from .gathered_state import GatheredState
from .registry import *  # noqa: F403
from .sharded_state import ShardedState

__all__ = ["ComposedUpdater", "GatheredState", "ShardedState", "Updater"]
