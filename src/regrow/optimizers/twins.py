"""A private twin of an optimizer that steps small tensors of its own, and leaves the optimizer as it is."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

__all__ = ["GRADIENTS", "Pattern", "Run", "run_twin", "undisturbed"]

GRADIENTS = 4
"""Steps of a twin. Some optimizers spend their first step on their state."""

_LEARNING_RATE = 1e-3
"""Not the group's own, which is 0 at the start of a warm-up."""

_LEFT_OUT = {"state", "param_groups", "step", "grad_scale", "found_inf"}
"""Attributes that a twin does not take over. Schedulers patch `step`; GradScaler leaves the other two."""


@dataclass(frozen=True)
class Pattern:
    """The parameter that a twin steps.

    Attributes:
        shape: shape of the parameter.
        every: only every so many elements have a value and gradients; those between have value 0 and gradients 0.
        seed: seed of the random numbers that the optimizer draws.
        without_decay: `weight_decay` is 0.
    """

    shape: tuple[int, ...]
    every: int = 1
    seed: int = 0
    without_decay: bool = False


@dataclass(frozen=True)
class Run:
    """The record of what a twin did.

    Attributes:
        parameter: the parameter at the end.
        gradients: the gradients of each step.
        moved: by how much the elements with gradients had moved after each step, (steps, elements).
        start: the state of the parameter before the first step.
        states: after each step.
        total: elements of all parameters of the twin.
        group: the settings that the twin stepped with.
    """

    parameter: Tensor
    gradients: list[Tensor]
    moved: Tensor
    start: dict[str, Any]
    states: list[dict[str, Any]]
    total: int
    group: Mapping[str, Any]


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Leaves random states and warnings as they are, calls no hooks of others, and has nothing compiled."""
    devices = [device.index or 0] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        warnings.catch_warnings(),
        torch.compiler.set_stance("force_eager"),
        torch.inference_mode(False),
        torch.enable_grad(),
        _without(_global_optimizer_pre_hooks),
        _without(_global_optimizer_post_hooks),
    ):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _without(hooks: dict[int, Any]) -> Iterator[None]:
    """Empties a dict of hooks that hang on all optimizers."""
    kept = dict(hooks)
    hooks.clear()
    try:
        yield
    finally:
        hooks.update(kept)


def run_twin(
    optimizer: torch.optim.Optimizer, group: Mapping[str, Any], parameter: Tensor, pattern: Pattern, seeded: bool
) -> Run:
    """Lets a twin take `GRADIENTS` steps.

    Args:
        group: the optimizer's group whose settings the twin has.
        parameter: one of this group.
        seeded: the twin starts with state like the parameter's own, for optimizers that make it when they are made.

    Raises:
        Exception: whatever the optimizer raises where it needs more than parameters and gradients.
    """
    where: dict[str, Any] = {"device": parameter.device, "dtype": torch.promote_types(parameter.dtype, torch.float32)}
    count = torch.Size(pattern.shape).numel() // pattern.every
    values, *gradients = (_spread(v, pattern).to(**where) for v in _numbers(count))
    own = nn.Parameter(values.clone())
    beside = nn.Parameter(torch.ones(5, *[1] * (own.dim() - 1), **where))  # a bias, which the optimizer trains as well
    twin = _twin(optimizer, group, [own, beside], pattern)
    if seeded:
        twin.state[own], twin.state[beside] = (_state_like(optimizer, parameter, new) for new in (own, beside))
    _seed(pattern.seed, own.device)
    start, moved, states = _snapshot(twin, own), [], []
    for gradient in gradients:
        own.grad, beside.grad = gradient.clone(), torch.full_like(beside, 0.5)
        _step(twin)
        moved.append((own.detach() - values).reshape(-1)[:: pattern.every].clone())
        states.append(_snapshot(twin, own))
    total = own.numel() + beside.numel()
    return Run(own.detach(), gradients, torch.stack(moved), start, states, total, twin.param_groups[0])


def _numbers(count: int) -> Iterator[Tensor]:
    """Values and gradients, of mixed signs and sizes.

    The second gradient is orthogonal to the values, two by two and so row by row: some optimizers look for that. Those
    after it are larger and smaller than before, so that limits to the size of steps show.
    """
    generator = torch.Generator().manual_seed(0)
    draw = [torch.rand(2, count, generator=generator, dtype=torch.float64) for _ in range(1 + GRADIENTS)]
    values, *gradients = ((0.5 + size) * torch.where(sign < 0.4, -1.0, 1.0) for size, sign in draw)
    pairs = values.view(-1, 2)
    gradients[1] = (gradients[1].view(-1, 2)[:, :1] * torch.stack([-pairs[:, 1], pairs[:, 0]], 1)).reshape(-1)
    yield values
    for gradient, scale in zip(gradients, (1.0, 1.0, 8.0, 0.5), strict=True):
        yield scale * gradient


def _spread(numbers: Tensor, pattern: Pattern) -> Tensor:
    spread = numbers.new_zeros(torch.Size(pattern.shape).numel())
    spread[:: pattern.every] = numbers
    return spread.view(pattern.shape)


def _twin(optimizer: Any, group: Mapping[str, Any], parameters: list[Tensor], pattern: Pattern) -> Any:
    """An optimizer of the same class, attributes and settings that holds `parameters`."""
    if any(isinstance(value, nn.Module) for value in vars(optimizer).values()):
        raise TypeError("an optimizer that holds a module sees more than parameters and gradients")
    twin = object.__new__(type(optimizer))
    memo: dict[int, Any] = {id(old): parameters[0] for held in optimizer.param_groups for old in held["params"]}
    memo |= {id(optimizer): twin, id(group["params"]): parameters}
    settings = {name: copy.deepcopy(value, memo) for name, value in group.items() if name not in ("params", "lr")}
    settings |= {"params": parameters, "lr": _rate_like(group.get("lr"))}
    settings.pop("param_names", None)
    if pattern.without_decay and "weight_decay" in settings:
        settings["weight_decay"] = 0.0
    for name, value in vars(optimizer).items():
        if name.endswith("_hooks"):
            twin.__dict__[name] = OrderedDict()
        elif name not in _LEFT_OUT and not (callable(value) and hasattr(type(optimizer), name)):
            twin.__dict__[name] = copy.deepcopy(value, memo)
    twin.state, twin.param_groups = defaultdict(dict), [settings]
    if callable(getattr(twin, "train", None)):  # schedule-free optimizers refuse to step before
        twin.train()
    return twin


def _rate_like(rate: Any) -> Any:
    if rate is None:
        return None
    return torch.full_like(rate, _LEARNING_RATE) if isinstance(rate, Tensor) else _LEARNING_RATE


def _state_like(optimizer: torch.optim.Optimizer, parameter: Tensor, new: Tensor) -> dict[str, Any]:
    """State of another size: what each element has is the first element's."""

    def resized(value: Any) -> Any:
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            return value.detach().reshape(-1)[0].expand(new.shape).clone()
        return copy.deepcopy(value)

    return {name: resized(value) for name, value in optimizer.state.get(parameter, {}).items()}


def _seed(seed: int, device: torch.device) -> None:
    """Seeds this device alone; torch.manual_seed would seed all."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def _step(twin: Any) -> None:
    closure = inspect.signature(twin.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        twin.step(lambda: torch.zeros(()))
    else:
        twin.step()


def _snapshot(twin: Any, parameter: Tensor) -> dict[str, Any]:
    return {name: _copy(value) for name, value in twin.state.get(parameter, {}).items()}


def _copy(value: Any) -> Any:
    """Returns what a state holds, as it is now."""
    if type(value) is Tensor:
        return value.clone()
    return list(value) if isinstance(value, list) else value
