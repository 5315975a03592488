"""Updaters: when and how the active sets of a model change. `updater` is the core, each other file a method or two."""

from .alternating import ACDC
from .deep_rewiring import DeepRewiring
from .dsr import DSR
from .evolution import SET
from .gathered_state import GatheredState
from .gradual import GMP, Han
from .granet import GraNet
from .mest import MEST
from .rigl import RigL, RigLITOP
from .sharded_state import ShardedState
from .sparse_momentum import SparseMomentum
from .static import Static
from .surgery import DNS
from .top_kast import TopKAST
from .updater import Updater

__all__ = [
    "ACDC",
    "DNS",
    "DSR",
    "GMP",
    "MEST",
    "SET",
    "DeepRewiring",
    "GatheredState",
    "GraNet",
    "Han",
    "RigL",
    "RigLITOP",
    "ShardedState",
    "SparseMomentum",
    "Static",
    "TopKAST",
    "Updater",
]
