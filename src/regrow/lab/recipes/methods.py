"""The training methods: how a network becomes sparse, and what moves its weights. A method is one entry of METHODS."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import getdoc, signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn, optim

import regrow
from regrow.lab import models
from regrow.lab.errors import UsageError
from regrow.lab.training.loss import mean_loss
from regrow.updaters import Updater
from regrow.weights.meta import materialise, on_meta
from regrow.weights.prunable import select

from .options import options_of, updaters
from .recipe import Recipe, option_names, own_name

if TYPE_CHECKING:
    from regrow.lab.data.split import AnySplit

__all__ = [
    "METHODS",
    "Choice",
    "Examples",
    "Method",
    "check_taken",
    "concerns_dense",
    "make_network",
    "make_sparse",
    "make_updater",
    "prunable_weights",
    "update_interval",
]


@dataclass(frozen=True)
class Examples:
    """Training examples by which methods at initialisation score weights: the same ones for every method of a seed."""

    split: AnySplit
    seed: int

    def batches(self, size: int = 128, number: int = 1) -> list[tuple[Tensor, Tensor]]:
        """Random batches without crops and flips."""
        order = torch.randperm(len(self.split), generator=torch.Generator().manual_seed(self.seed))
        return [self.split.batch(index) for index in order[: size * number].split(size)]


@dataclass(frozen=True)
class Choice:
    """A recipe, and how it is to be trained.

    Attributes:
        recipe: all that does not depend on the method.
        method: a key of METHODS.
        density: share of active weights, in (0, 1].
        storage: "auto", "masked" or "compressed".
        seed: seed of network, topology and order of examples.
    """

    recipe: Recipe
    method: str
    density: float
    storage: str = "auto"
    seed: int = 0


Start = Callable[[nn.Module, Choice, Examples | None], nn.Module]
Attach = Callable[[nn.Module, optim.Optimizer, Choice, dict[str, Any]], Any]


@dataclass(frozen=True)
class Method:
    """One training method.

    Attributes:
        attach: (model, optimizer, settings, {total_steps, update_every, seed}) -> updater; None: the network is dense.
        start: (dense model, settings, examples) -> the model as training starts; without examples, where only the shape
            of the model is wanted, with random active sets.
        intervals: topology updates in a training where the recipe gives no `update_every`; None: one an epoch.
        fields: the fields of recipes that concern sparse training and that it has; others would change nothing.
        options: its options, with their defaults.
        about: one line for `regrow list`.
    """

    attach: Attach | None
    start: Start
    intervals: float | None = None
    fields: Collection[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""

    @property
    def takes(self) -> set[str]:
        """All settings of sparse training that it has."""
        return {*self.fields, *self.options}


def _sparsify(model: nn.Module, settings: Choice, **more: Any) -> nn.Module:
    recipe = settings.recipe
    arguments: dict[str, Any] = {"dense": list(recipe.dense), "storage": settings.storage, "rescale": recipe.rescale}
    arguments |= {"distribution": recipe.option("distribution", "uniform"), "density": settings.density}
    randomness = recipe.option("receptive_field")
    if randomness is not None and not more:
        arguments |= {"init": _fields(model, settings, randomness), "density": None}
    return regrow.sparsify(model, **arguments | more)


def _fields(model: nn.Module, settings: Choice, randomness: float) -> dict[str, Tensor]:
    distribution = settings.recipe.option("distribution", "uniform")
    return regrow.receptive_fields(
        model, settings.density, randomness=randomness, distribution=distribution, dense=settings.recipe.dense
    )


def _untouched(model: nn.Module, settings: Choice, examples: Examples | None) -> nn.Module:
    materialise(on_meta(model, ()))
    return model


def _random(model: nn.Module, settings: Choice, examples: Examples | None) -> nn.Module:
    return _sparsify(model, settings)


def _all_weights(model: nn.Module, settings: Choice, examples: Examples | None) -> nn.Module:
    """Starts with all weights, or with as many as the recipe says; masked until they are few, if that is asked for."""
    option = settings.recipe.option
    how: dict[str, Any] = {"storage": "masked"}
    if settings.storage == "compressed":
        if "compress_below" not in METHODS[settings.method].options:
            raise UsageError(f"{settings.method} trains in masked storage to the end; leave out --storage compressed")
        how = {"storage": "compressed", "compress_below": option("compress_below", 0.3)}
    elif (below := option("compress_below")) is not None:
        raise UsageError(f"compress_below={below} changes nothing without --storage compressed; add that, or leave it")
    density = option("initial_density", 1.0) if "initial_density" in METHODS[settings.method].options else 1.0
    return _sparsify(model, settings, density=density, distribution="uniform", **how)


def _ticket(model: nn.Module, settings: Choice, examples: Examples | None) -> nn.Module:
    """Starts with all weights in the first round; later rounds have masks."""
    return (_all_weights if settings.density == 1 else _random)(model, settings, examples)


def _by_scores(score: Callable[[nn.Module, Choice, Examples], Any]) -> Start:
    """Keeps what is scored highest in the whole network, unless the recipe gives a distribution."""

    def start(model: nn.Module, settings: Choice, examples: Examples | None) -> nn.Module:
        distribution = settings.recipe.option("distribution", "global")
        if examples is None:  # there are no scores
            return _sparsify(model, settings, distribution="uniform" if distribution == "global" else distribution)
        return _sparsify(model, settings, init=score(model, settings, examples), distribution=distribution)

    return start


def _snip(model: nn.Module, settings: Choice, examples: Examples) -> dict[str, Tensor]:
    return regrow.snip(model, examples.batches(), loss=mean_loss, dense=settings.recipe.dense)


def _grasp(model: nn.Module, settings: Choice, examples: Examples) -> dict[str, Tensor]:
    return regrow.grasp(model, examples.batches(), loss=mean_loss, dense=settings.recipe.dense)


def _synflow(model: nn.Module, settings: Choice, examples: Examples) -> dict[str, Tensor]:
    ((inputs, _),) = examples.batches(size=1)
    if not inputs.is_floating_point():
        raise UsageError(f"synflow feeds ones, but {settings.recipe.model} reads indices; use snip, grasp or obd")
    return regrow.synflow(model, inputs, settings.density, dense=settings.recipe.dense)


def _obd(model: nn.Module, settings: Choice, examples: Examples) -> dict[str, Tensor]:
    was_training = model.training
    try:
        return regrow.obd(model.eval(), examples.batches(number=8), loss=mean_loss, dense=settings.recipe.dense)
    finally:
        model.train(was_training)


def _magnitude(model: nn.Module, settings: Choice, examples: Examples | None) -> nn.Module:
    """Keeps the largest in each layer: weights of different layers have different scales and are not comparable."""
    return _sparsify(model, settings, init="magnitude")


_START = ("dense", "rescale")
"""Fields that `sparsify` is given, and its option."""
_SPREAD = {"distribution": "uniform"}


def _of_updater(kind: type[Updater]) -> Method:
    """The method of an updater, whose options are those of its arguments that have a plain type."""
    known = signature(kind).parameters
    own = [name for name in options_of(kind) if name in option_names()]

    def attach(model: nn.Module, optimizer: optim.Optimizer, settings: Choice, run: dict[str, Any]) -> Any:
        given = {name: value for name, value in run.items() if name in known}  # some draw nothing and take no seed
        if kind.starts_dense:
            given["density"] = settings.density
        given |= {name: value for name, value in settings.recipe.options if name in own}
        make: Callable[..., Updater] = kind
        return make(model, optimizer, **given)

    fields: tuple[str, ...] = ("dense",) if kind.starts_dense else _START
    fields += ("update_every",) if "update_every" in known else ()
    options: dict[str, Any] = {} if kind.starts_dense else {**_SPREAD, "receptive_field": None}
    options |= {name: options_of(kind)[name].default for name in own}
    if kind.starts_dense and getattr(kind, "switches_storage", False):
        options["compress_below"] = 0.3
    if kind is regrow.GraNet:
        options["initial_density"] = 1.0
    return Method(
        attach, _all_weights if kind.starts_dense else _random, kind.updates, fields, options, _first_line(kind)
    )


def _static(model: nn.Module, optimizer: optim.Optimizer, settings: Choice, run: dict[str, Any]) -> Any:
    return regrow.Static(model, optimizer)


def _first_line(function: Callable[..., Any]) -> str:
    return (getdoc(function) or "").partition("\n")[0]


_SCORES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "snip": (_snip, regrow.snip),
    "grasp": (_grasp, regrow.grasp),
    "synflow": (_synflow, regrow.synflow),
    "obd": (_obd, regrow.obd),
}
_MAGNITUDE = "The largest weights of each layer at initialisation, and no others."
_LOTTERY = "Lottery tickets: train, prune and rewind in rounds (Frankle & Carbin 2019, arXiv:1803.03635, section 2)."
_MOVING = {name: _of_updater(kind) for name, kind in updaters().items()}

METHODS: dict[str, Method] = {
    "sparse-momentum": _MOVING["sparse-momentum"],
    "dense": Method(None, _untouched, about="All weights: the dense baseline."),
    "static": _MOVING["static"],
    **_MOVING,
    **{
        name: Method(_static, _by_scores(score), None, _START, {"distribution": "global"}, _first_line(about))
        for name, (score, about) in _SCORES.items()
    },
    "magnitude": Method(_static, _magnitude, None, _START, _SPREAD, _MAGNITUDE),
    "lottery": Method(_static, _ticket, None, ("dense",), {"rewind_epochs": 0}, _LOTTERY),
}
"""Those that move weights come from `regrow.updaters.registry`."""


_SPARSE_ONLY = {"update_every", *_START, *option_names()} - {"width"}


def concerns_dense(key: str) -> bool:
    """Returns whether a setting changes anything in a dense run."""
    return own_name(key) not in _SPARSE_ONLY


def check_taken(methods: Sequence[str], keys: Iterable[str]) -> None:
    """Raises UsageError for a setting of sparse training that none of the methods has.

    Example:
        >>> check_taken(["static", "set"], ["lr", "prune_rate"])
    """
    taken = {setting for method in methods for setting in METHODS[method].takes}
    for key in keys:
        if not concerns_dense(key) and own_name(key) not in taken:
            those = f"the method {methods[0]} has" if len(methods) == 1 else f"the methods {', '.join(methods)} have"
            known = f"its own settings are {', '.join(sorted(taken))}" if taken else "it has no settings of its own"
            having = [name for name, method in METHODS.items() if own_name(key) in method.takes]
            raise UsageError(f"{those} no setting {key}; leave it out ({known}), or choose {' or '.join(having[:3])}")


def make_network(recipe: Recipe) -> nn.Module:
    """The dense network of a recipe, freshly initialised.

    Raises:
        UsageError: it takes no width, and the recipe has one.
    """
    width = recipe.option("width")
    if width is None:
        return models.build(recipe.model, recipe.classes)
    try:
        return models.build(recipe.model, recipe.classes, width=width)
    except TypeError as error:
        raise UsageError(f"width={width}: {recipe.model} has no such option; leave it out ({error})") from error


def make_sparse(
    model: nn.Module,
    settings: Choice,
    masks: Mapping[str, Tensor] | None = None,
    examples: Examples | None = None,
) -> nn.Module:
    """The network as the method trains it: itself if dense; with the active sets of `masks`, if given.

    Args:
        examples: examples by which methods at initialisation score weights; without them the active sets are random.
    """
    method = METHODS[settings.method]
    if masks is not None and method.attach is not None:
        return _sparsify(model, settings, density=None, init=masks)
    return method.start(model, settings, examples)


def make_updater(model: nn.Module, optimizer: optim.Optimizer, settings: Choice, total_steps: int) -> Any | None:
    """The updater of the method, updated by hand; None when dense."""
    attach = METHODS[settings.method].attach
    run = {"total_steps": total_steps, "update_every": None, "seed": settings.seed}
    return attach(model, optimizer, settings, run) if attach else None


def update_interval(settings: Choice, total_steps: int, steps_per_epoch: int) -> int:
    """Steps between topology updates: the recipe's, else the method's, else an epoch."""
    intervals = METHODS[settings.method].intervals
    by_method = max(1, round(total_steps / intervals)) if intervals else steps_per_epoch
    return settings.recipe.update_every or by_method


def prunable_weights(model: nn.Module, dense: tuple[str, ...] = ()) -> int:
    """Returns how many weights of a dense network `sparsify` would make sparse."""
    return sum(place.parameter.numel() for place in select(model, dense).values())
