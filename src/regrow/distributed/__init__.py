"""Training in several processes that hold one network: gradients are averaged, and topologies are the same everywhere.

`docs/distributed.md` says how it is used. Nothing here does anything in a single process.
"""

from regrow._renamed import names

from .consistency import assert_ranks_agree, broadcast_state, same_generator
from .ddp import exclude_from_ddp, restore_to_ddp
from .gradient_mean import GradientMean
from .ranks import gather_objects, is_distributed, largest, mean_, own_of
from .traffic import Traffic, gradient_bytes

__all__ = [
    "GradientMean",
    "Traffic",
    "assert_ranks_agree",
    "broadcast_state",
    "exclude_from_ddp",
    "gather_objects",
    "gradient_bytes",
    "is_distributed",
    "largest",
    "mean_",
    "own_of",
    "restore_to_ddp",
    "same_generator",
]


__getattr__ = names(__name__, {"leave_to_us": "exclude_from_ddp", "leave_to_ddp": "restore_to_ddp"})
