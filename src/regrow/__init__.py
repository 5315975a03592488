"""regrow: neural networks that are sparse from the first training step to the last.

Names load when they are first used, so that the command line answers before torch is there.

>>> model = regrow.sparsify(model, density=0.05)
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
>>> regrow.SparseMomentum(model, optimizer, total_steps=70_000, update_every=703)
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import export, flops
    from .export import compact
    from .files import load, save
    from .pickles import safe_globals
    from .saliency import grasp, obd, snip, synflow
    from .sparsify import Summary, densify, sparsify, summary
    from .stray import check
    from .updaters import (
        ACDC,
        DNS,
        DSR,
        GMP,
        MEST,
        SET,
        DeepRewiring,
        GraNet,
        Han,
        RigL,
        RigLITOP,
        SparseMomentum,
        Static,
        TopKAST,
        Updater,
    )
    from .weights import SparseWeight, sparse_weights

    __version__: str

__all__ = [
    "ACDC",
    "DNS",
    "DSR",
    "GMP",
    "MEST",
    "SET",
    "DeepRewiring",
    "GraNet",
    "Han",
    "RigL",
    "RigLITOP",
    "SparseMomentum",
    "SparseWeight",
    "Static",
    "Summary",
    "TopKAST",
    "Updater",
    "check",
    "compact",
    "densify",
    "export",
    "flops",
    "grasp",
    "load",
    "obd",
    "safe_globals",
    "save",
    "snip",
    "sparse_weights",
    "sparsify",
    "summary",
    "synflow",
]

_HOME = {name: "updaters" for name in __all__ if name[0].isupper()} | {
    "SparseWeight": "weights",
    "Summary": "sparsify",
    "check": "stray",
    "compact": "export",
    "densify": "sparsify",
    "grasp": "saliency",
    "load": "files",
    "obd": "saliency",
    "safe_globals": "pickles",
    "save": "files",
    "snip": "saliency",
    "sparse_weights": "weights",
    "sparsify": "sparsify",
    "summary": "sparsify",
    "synflow": "saliency",
}


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("regrow")
    except PackageNotFoundError:  # a source tree that is not installed
        return "0+unknown"


class _Package(ModuleType):
    """Keeps `regrow.sparsify` the function: importing the module of that name would put the module there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    elif not name.startswith("_") and find_spec(f"{__name__}.{name}"):
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
