"""Parameters that DistributedDataParallel leaves to regrow.

Its reducer takes the parameters as they are when a model is wrapped, and cannot handle one whose length changes. It
would also send masks and indices, which are the same everywhere, at every forward pass.
"""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from regrow.nn._state import ENTRIES
from regrow.weights import sparse_weights, unwrapped

__all__ = ["check_reducer", "exclude_from_ddp", "restore_to_ddp"]

_LIST = "_ddp_params_and_buffers_to_ignore"
"""The attribute where DistributedDataParallel looks for names, in the module that it wraps and in no other."""


def exclude_from_ddp(model: nn.Module) -> None:
    """Makes DistributedDataParallel ignore compressed weights, now or later, their indices and all masks of `model`.

    `sparsify` does this for its own model. If you wrap another module that contains that model, call this with the
    outer module before; in a LightningModule, call it at the end of `__init__`.

    Example:
        >>> class Module(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.net = regrow.sparsify(make_model(), density=0.05)
        ...         regrow.distributed.exclude_from_ddp(self)
    """
    model = unwrapped(model)
    setattr(model, _LIST, sorted({*getattr(model, _LIST, ()), *_ours(model)}))


def restore_to_ddp(model: nn.Module) -> None:
    """Reverts `exclude_from_ddp`."""
    if rest := sorted(set(getattr(model, _LIST, ())) - _ours(model)):
        setattr(model, _LIST, rest)
    elif hasattr(model, _LIST):
        delattr(model, _LIST)


def _ours(model: nn.Module) -> set[str]:
    paths = {id(module): path for path, module in model.named_modules()}
    names: set[str] = set()
    for weight in sparse_weights(model).values():
        path = paths[id(weight.module)]
        own = [*weight.buffers, *([weight.attribute] if weight.reduces_own_gradient else [])]
        own += ENTRIES if weight.switch else []  # DistributedDataParallel asks once, and it may be compressed later
        names |= {f"{path}.{name}" for name in own}
        names |= set(own if not path else [])  # of the root itself DDP asks for "weight" here, for ".weight" there
    return names


def check_reducer(reducer: DistributedDataParallel, parameters: dict[str, nn.Parameter]) -> None:
    """Raises RuntimeError where the reducer of a wrapper has taken one of these compressed parameters."""
    taken = {id(parameter) for parameter in reducer._module_parameters}
    for name, parameter in parameters.items():
        if id(parameter) in taken:
            kind = type(reducer.module).__name__
            raise RuntimeError(
                f"DistributedDataParallel averages {name}, whose length changes at topology updates; call "
                f"regrow.distributed.exclude_from_ddp(module) on the {kind} before you wrap it"
            )
