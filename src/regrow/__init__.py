"""regrow: neural networks that are sparse from the first training step to the last.

>>> model = regrow.sparsify(model, density=0.05)
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
>>> regrow.SparseMomentum(model, optimizer, total_steps=70_000, update_every=703)
"""

from importlib.metadata import PackageNotFoundError, version

from . import flops
from .files import load, save
from .sparsify import Summary, densify, sparsify, summary
from .updaters import SparseMomentum, Static, Updater
from .weights import SparseWeight, sparse_weights

try:
    __version__ = version("regrow")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "SparseMomentum",
    "SparseWeight",
    "Static",
    "Summary",
    "Updater",
    "densify",
    "flops",
    "load",
    "save",
    "sparse_weights",
    "sparsify",
    "summary",
]
