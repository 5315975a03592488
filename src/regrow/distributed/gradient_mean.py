"""The mean over ranks of the gradients of compressed weights, taken when backward ends.

One all-reduce of all active gradients, after those of DistributedDataParallel. It happens in each backward pass through
the model, whichever layers the pass has reached: where a rank does not use a weight, its gradient counts as 0.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Variable
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

from regrow.ops import DTYPES
from regrow.weights import SparseWeight, hook_gradients, unwrapped

from .ddp import check_reducer
from .ranks import is_distributed, mean_

__all__ = ["GradientMean"]


class _Before:
    """A forward pre-hook; an object, because pickles of bound methods are not allowed by `torch.load`'s default."""

    def __init__(self, mean: GradientMean):
        self.mean = mean

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        self.mean._before_forward(module, inputs)


class _After:
    """A forward hook."""

    def __init__(self, mean: GradientMean):
        self.mean = mean

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.mean._after_forward(module, inputs, output)


class GradientMean:
    """Hangs on a sparse model; `start` has it work. Until then it refuses to train in several processes.

    Copies of a model get one that has not been started.
    """

    HOOKS = (_Before, _After)

    def __init__(self) -> None:
        self._weights: dict[str, SparseWeight] = {}
        self._handles: list[Any] = []
        self._then: list[weakref.WeakMethod[Any]] = []
        self._queued = False
        self._synchronises = True
        self._seen: weakref.ref[DistributedDataParallel] | None = None

    @staticmethod
    def hang_on(model: nn.Module) -> GradientMean:
        """Returns the object of the whole model, or makes one; it replaces those of the model's parts."""
        root = unwrapped(model)
        mean = next((one for hook in root._forward_hooks.values() if (one := _mean_of(hook))), None)
        GradientMean.take_off(model, all_but=mean)
        if mean is None:
            mean = GradientMean()
            root.register_forward_pre_hook(_Before(mean))
            root.register_forward_hook(_After(mean))
        return mean

    @staticmethod
    def take_off(model: nn.Module, all_but: GradientMean | None = None) -> None:
        for module in model.modules():
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for key, hook in list(hooks.items()):
                    if (mean := _mean_of(hook)) and mean is not all_but:
                        mean._stop()
                        del hooks[key]

    def start(self, weights: Mapping[str, SparseWeight], then: Callable[[], None]) -> None:
        """Starts to take means.

        Args:
            weights: all sparse weights of the model.
            then: a bound method, called after each backward pass for as long as its object lives; so are earlier ones.
        """
        self._stop()
        self._weights = dict(weights)
        self._then = [one for one in self._then if one() is not None] + [weakref.WeakMethod(then)]
        alive = weakref.ref(self)  # a cycle that runs through a parameter's hook would never be collected

        def arrived(parameter: Tensor) -> None:
            if (mean := alive()) is not None:
                mean._expect_end()

        self._handles = [hook_gradients(weight.parameter, arrived) for weight in weights.values()]

    @staticmethod
    def follow(model: nn.Module, weights: Mapping[str, SparseWeight]) -> None:
        """Notes that weights of a model, whose parameters are the same as before, have another storage."""
        for hook in unwrapped(model)._forward_hooks.values():
            if (mean := _mean_of(hook)) and mean._weights:
                mean._weights = dict(weights)

    def _stop(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._weights, self._handles = {}, []

    def _before_forward(self, module: nn.Module, inputs: Any) -> None:
        if torch.compiler.is_compiling() or not is_distributed() or not torch.is_grad_enabled():
            return
        if not self._weights and module.training:
            raise RuntimeError(
                f"{dist.get_world_size()} processes train a sparse model, and no updater keeps them in sync; make "
                "one after init_process_group, such as regrow.Static(model, optimizer), which changes nothing"
            )
        self._queued = False  # a backward pass may have failed, and then its callback never ran
        reducer = DistributedDataParallel._get_active_ddp_module()
        self._synchronises = reducer is None or reducer.require_backward_grad_sync
        if reducer is not None and (self._seen is None or self._seen() is not reducer):
            check_reducer(reducer, {weight.name: weight.parameter for weight in self._compressed()})
            self._seen = weakref.ref(reducer)

    def _after_forward(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or not self._weights or not torch.is_grad_enabled():
            return
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(lambda gradient: self._expect_end())

    def _expect_end(self) -> None:
        """Calls `_end` at the end of the running backward pass, after DistributedDataParallel's end.

        That end is a callback of the pass, too; a callback that another one adds runs after the existing ones.
        """
        # once a pass, however many parameters and outputs it reaches
        if not self._queued:
            self._queued = True
            queue = Variable._execution_engine.queue_callback
            queue(lambda: queue(self._end))

    @torch.no_grad()
    def _end(self) -> None:
        self._queued = False
        if self._synchronises:
            # one all-reduce for each dtype: gradients of several dtypes cannot be joined into one tensor
            for dtype in DTYPES:
                _average([weight.parameter for weight in self._compressed() if weight.parameter.dtype == dtype])
        for one in self._then:
            if (then := one()) is not None:
                then()

    def _compressed(self) -> list[SparseWeight]:
        return [weight for weight in self._weights.values() if weight.reduces_own_gradient]

    def __reduce__(self) -> tuple[Any, ...]:
        return GradientMean, ()


def _mean_of(hook: Any) -> GradientMean | None:
    """Returns the object that a forward hook belongs to; in pickles of version 0.1 hooks are its methods."""
    owner = getattr(hook, "mean", getattr(hook, "__self__", None))
    return owner if isinstance(owner, GradientMean) else None


def _average(parameters: list[nn.Parameter]) -> None:
    """Replaces gradients by their means over ranks; None stays only where no rank has one."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        return
    present = trained[0].new_tensor([parameter.grad is not None for parameter in trained])
    flat = torch.cat([*(_gradient(parameter).reshape(-1) for parameter in trained), present])
    *means, present = mean_(flat).split([*(parameter.numel() for parameter in trained), len(trained)])
    for parameter, mean, there in zip(trained, means, present.tolist(), strict=True):
        if parameter.grad is not None:
            gradient = parameter.grad.detach()
            with torch.autograd._unsafe_preserve_version_counter(
                gradient
            ):  # by which micro-batches are told from steps
                gradient.copy_(mean.view_as(gradient))
        elif there:
            parameter.grad = mean.view_as(parameter).clone()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()
