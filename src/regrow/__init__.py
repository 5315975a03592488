"""regrow: neural networks that are sparse from the first training step to the last.

Names load when they are first used, so that the command line responds before torch has loaded.

>>> model = regrow.sparsify(model, density=0.05)
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
>>> regrow.SparseMomentum(model, optimizer, total_steps=70_000, update_every=703)
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from . import _renamed

if TYPE_CHECKING:
    from . import export as export
    from . import flops as flops
    from ._receptive_fields import receptive_fields as receptive_fields
    from ._sparsify import densify as densify
    from ._sparsify import sparsify as sparsify
    from ._summary import Summary as Summary
    from ._summary import summary as summary
    from .export import compact as compact
    from .post_training import layerwise_obs as layerwise_obs
    from .post_training import obs as obs
    from .post_training import sparsegpt as sparsegpt
    from .post_training import wanda as wanda
    from .saliency import grasp as grasp
    from .saliency import obd as obd
    from .saliency import skeletonization as skeletonization
    from .saliency import snip as snip
    from .saliency import synflow as synflow
    from .serialization import load as load
    from .serialization import safe_globals as safe_globals
    from .serialization import save as save
    from .updaters import ComposedUpdater as ComposedUpdater
    from .updaters import Updater as Updater
    from .updaters.registry import *  # noqa: F403
    from .weights import SparseWeight as SparseWeight
    from .weights import sparse_weights as sparse_weights
    from .weights.stray import check as check

    __version__: str
    __all__: list[str]

_HOME = {
    "ComposedUpdater": "updaters",
    "SparseWeight": "weights",
    "Summary": "_summary",
    "Updater": "updaters",
    "check": "weights.stray",
    "compact": "export",
    "densify": "_sparsify",
    "grasp": "saliency",
    "layerwise_obs": "post_training",
    "load": "serialization",
    "obd": "saliency",
    "obs": "post_training",
    "receptive_fields": "_receptive_fields",
    "safe_globals": "serialization",
    "save": "serialization",
    "skeletonization": "saliency",
    "snip": "saliency",
    "sparse_weights": "weights",
    "sparsegpt": "post_training",
    "sparsify": "_sparsify",
    "summary": "_summary",
    "synflow": "saliency",
    "wanda": "post_training",
}
"""The module of each public name; the methods are those of `updaters.registry`."""

_renamed.install()


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("regrow")
    except PackageNotFoundError:  # a source tree that is not installed
        return "0+unknown"


def _methods() -> list[str]:
    registry = import_module(".updaters.registry", __name__)
    return [name for name, value in vars(registry).items() if isinstance(value, type)]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name == "__all__":
        value = sorted([*_HOME, *_methods(), "export", "flops"])
    elif name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    elif not name.startswith("_") and find_spec(f"{__name__}.{name}"):
        value = import_module(f".{name}", __name__)
    elif not name.startswith("_") and name in _methods():
        value = getattr(import_module(".updaters", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__"), "__version__"})
