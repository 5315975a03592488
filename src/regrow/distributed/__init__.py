"""Training in several processes that hold one network: gradients are averaged, and topologies are the same everywhere.

`docs/distributed.md` says how it is used. Nothing here does anything in a single process.
"""

from .consistency import refuse_differing, same_generator, start_alike
from .ddp import leave_to_ddp, leave_to_us
from .gradient_mean import GradientMean
from .ranks import gather_objects, largest, mean_, own_of, several
from .traffic import Traffic, gradient_bytes

__all__ = [
    "GradientMean",
    "Traffic",
    "gather_objects",
    "gradient_bytes",
    "largest",
    "leave_to_ddp",
    "leave_to_us",
    "mean_",
    "own_of",
    "refuse_differing",
    "same_generator",
    "several",
    "start_alike",
]
