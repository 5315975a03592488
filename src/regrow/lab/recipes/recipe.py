"""Recipe: everything that defines one training run, except method, density, storage and seed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.lab.errors import UsageError

from .options import given, known_options

if TYPE_CHECKING:
    from regrow.lab.data.split import Data

__all__ = ["Recipe", "learning_rate", "option_names", "override", "own_name", "setting_names", "stored_name"]

PRECISIONS = ("32-true", "bf16-mixed")
OPTIMIZERS = ("sgd", "adamw")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
LR_SCHEDULES = ("steps", "cosine")


@dataclass(frozen=True)
class Recipe:
    """One published protocol. Recipes are functions in `catalog` that return a complete one.

    Attributes:
        name: the name to type after `regrow train`.
        about: one line for `regrow list`.
        model: name of the dense network, for `models.build`.
        classes: outputs of the network.
        data: (root, seed, validation fraction) -> Data.
        epochs: passes over the training set, at least 1.
        batch_size: number of examples in a step, at least 1.
        lr: learning rate before schedule and warm-up, above 0.
        lr_drops: steps at which `lr` is multiplied by `lr_drop_factor`, in a schedule of `schedule_steps` steps that
            is stretched or compressed to the length of the run (drops stay at the same fractions).
        schedule_steps: length of the schedule that `lr_drops` belong to.
        lr_drop_factor: factor of each drop, above 0 and at most 1.
        momentum: momentum of SGD, or the first beta of AdamW, at least 0 and below 1.
        nesterov: use Nesterov momentum in SGD.
        weight_decay: weight decay, at least 0.
        lr_schedule: "steps", or "cosine": falls to 0 at the end, without drops.
        optimizer: "sgd", or "adamw", whose betas are `momentum` and `beta2`.
        beta2: second beta of AdamW, at least 0 and below 1.
        clip_norm: largest norm of the gradient; None: no clipping.
        warmup_epochs: epochs in which the learning rate rises linearly from nearly 0.
        label_smoothing: fraction of each label that is spread evenly over all classes in training, at least 0 and
            below 1 (Szegedy et al. 2016, arXiv:1512.00567, section 7).
        validation_fraction: fraction of the training set held out at random.
        images: number of training images to use, the same ones for every seed; None: all.
        update_every: steps between topology updates; None: one at the end of each epoch, or the method's own interval.
            There is none after the last step, and one that falls on the end of an epoch comes after the validation.
        dense: names of parameters or modules that stay dense.
        rescale: how active weights are scaled up at first, "auto", "neuron", "layer" (stored as True) or False; see
            `sparsify`. Published protocols do not.
        default_density: where none is asked for.
        channels_last: memory format of weights and images; faster for convolutions on CPUs, the same numbers otherwise.
        precision: of Lightning Fabric: "32-true", or "bf16-mixed", under which dense layers compute in bfloat16.
        accelerator: of Lightning Fabric; "auto" takes a GPU where there is one.
        threads: of torch, where `--threads` says nothing; None: torch's choice. Not a setting, because results are
            named by what was trained, not by what it ran on.
        options: what the method, or the model, is given beside that, by name (`options.known_options`); a method that
            has no such option leaves it alone, and one that is not given is the method's own.
    """

    name: str
    about: str
    model: str
    data: Callable[[Path, int, float], Data]
    epochs: int
    batch_size: int
    lr: float
    lr_drops: tuple[int, ...]
    schedule_steps: int
    lr_drop_factor: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    optimizer: str = "sgd"
    beta2: float = 0.999
    clip_norm: float | None = None
    lr_schedule: str = "steps"
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    validation_fraction: float = 0.1
    images: int | None = None
    update_every: int | None = None
    dense: tuple[str, ...] = ()
    rescale: bool | str = False
    default_density: float = 0.05
    channels_last: bool = False
    precision: str = "32-true"
    accelerator: str = "auto"
    classes: int = 10
    threads: int | None = None
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "schedule_steps", "images", "update_every"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "at least 1")
        _require(0 <= self.warmup_epochs <= self.epochs, "warmup_epochs", self.warmup_epochs, "0 to the epochs")
        _require(0 < self.lr < math.inf, "lr", self.lr, "above 0 and finite")
        _require(0 < self.lr_drop_factor <= 1, "lr_drop_factor", self.lr_drop_factor, "above 0 and at most 1")
        _require(all(drop >= 0 for drop in self.lr_drops), "lr_drops", self.lr_drops, "at least 0 each")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "at least 0 and below 1")
        if self.nesterov and self.optimizer == "sgd":
            _require(
                self.momentum > 0, "momentum", self.momentum, "above 0 with nesterov=true; set nesterov=false, too"
            )
        _require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "at least 0 and finite")
        _require(self.optimizer in OPTIMIZERS, "optimizer", self.optimizer, " or ".join(OPTIMIZERS))
        _require(self.lr_schedule in LR_SCHEDULES, "lr_schedule", self.lr_schedule, " or ".join(LR_SCHEDULES))
        _require(0 <= self.beta2 < 1, "beta2", self.beta2, "at least 0 and below 1")
        _require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", self.clip_norm, "above 0, or none")
        _require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "at least 0 and below 1")
        _require(self.accelerator in ACCELERATORS, "accelerator", self.accelerator, " or ".join(ACCELERATORS))
        _require(self.precision in PRECISIONS, "precision", self.precision, " or ".join(PRECISIONS))
        rules = (False, True, "neuron", "auto")
        _require(self.rescale in rules, "rescale", self.rescale, "auto, neuron, layer or false")
        rewound, width = self.option("rewind_epochs", 0), self.option("width", 1)
        _require(0 <= rewound < self.epochs, "rewind_epochs", rewound, "0 to less than the epochs")
        _require(width is None or width >= 1, "width", width, "at least 1")
        _require(0 < self.validation_fraction < 1, "validation_fraction", self.validation_fraction, "between 0 and 1")

    def option(self, name: str, otherwise: Any = None) -> Any:
        """Returns what the recipe gives the method or the model.

        Args:
            name: as the updater has it.
            otherwise: what to return where nothing is given.
        """
        return dict(self.options).get(name, otherwise)


def _with_former_fields(make: Callable[..., None]) -> Callable[..., None]:
    """Has `Recipe(window=10)` and `replace(recipe, window=10)`, as until 0.2, give the option; with a warning."""

    @wraps(make)
    def wrapped(self: Recipe, *arguments: Any, **named: Any) -> None:
        former = {name: named.pop(name) for name in list(named) if own_name(name) in option_names()}
        if former:
            options = given(**dict(named.get("options", ())), **{own_name(name): v for name, v in former.items()})
            warnings.warn(
                f"Recipe({', '.join(former)}): regrow 0.3 has no such fields; write options=given({', '.join(former)})",
                DeprecationWarning,
                stacklevel=2,
            )
            named["options"] = options
        make(self, *arguments, **named)

    return wrapped


Recipe.__init__ = _with_former_fields(Recipe.__init__)  # type: ignore[method-assign]


def _require(holds: bool, name: str, value: object, range_: str) -> None:
    if not holds:
        raise UsageError(f"{name}={value} must be {range_}")


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """The learning rate of optimizer step `step` (from 0) in a run of `total_steps`.

    Example:
        >>> recipe = replace(get_recipe("lenet300-mnist"), lr=0.1, lr_drops=(25_000, 50_000), schedule_steps=54_000)
        >>> [learning_rate(recipe, step, 54_000) for step in (0, 24_999, 25_000)]
        [0.1, 0.1, 0.01]
    """
    warmup_steps = total_steps * recipe.warmup_epochs / recipe.epochs
    risen = min((step + 1) / warmup_steps, 1.0) if warmup_steps else 1.0
    if recipe.lr_schedule == "cosine":
        return recipe.lr * risen * (1 + math.cos(math.pi * step / total_steps)) / 2
    drops = sum(step * recipe.schedule_steps >= drop * total_steps for drop in recipe.lr_drops)
    return recipe.lr * recipe.lr_drop_factor**drops * risen


_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _parse_bool(text: str) -> bool:
    return _BOOLS[text.lower()]


def _parse_bool_or_word(text: str) -> bool | str:
    """Returns a word as it is, but for "layer", which was "true" before there was another."""
    return {**_BOOLS, "layer": True}.get(text.lower(), text)


def _or_none(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text.lower() == "none" else parse(text)


def _parse_window(text: str) -> int | str:
    return "all" if text.lower() == "all" else int(text)


def _parse_integers(text: str) -> tuple[int, ...]:
    return tuple(int(part.replace("_", "")) for part in text.split(",") if part)


def _parse_words(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


_PARSERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "int": ("a whole number", int),
    "float": ("a number", float),
    "bool": ("true or false", _parse_bool),
    "bool | str": ("a word, true or false", _parse_bool_or_word),
    "str": ("a word", str),
    "int | None": ("a whole number or none", _or_none(int)),
    "float | None": ("a number or none", _or_none(float)),
    "bool | None": ("true, false or none", _or_none(_parse_bool)),
    "int | Literal['all'] | None": ("a number of steps, all or none", _or_none(_parse_window)),
    "tuple[int, ...]": ("whole numbers with commas between", _parse_integers),
    "tuple[str, ...]": ("words with commas between", _parse_words),
}


def setting_names() -> list[str]:
    """Names of the fields that `--set` can change.

    Example:
        >>> "weight_decay" in setting_names()
        True
    """
    fixed = ("name", "about", "model", "classes", "threads", "default_density")
    return [field.name for field in fields(Recipe) if field.type in _PARSERS and field.name not in fixed]


def option_names() -> list[str]:
    """Names of the options of methods and models, which `--set` can give as well.

    Example:
        >>> "stop_fraction" in option_names()
        True
    """
    return sorted(name for name, option in known_options().items() if option.type in _PARSERS)


def override(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """A recipe with some fields, or options of methods, changed; each assignment is "key=value", typed as the field is.

    Example:
        >>> override(get_recipe("digits-mlp"), ["lr=0.05", "lr_drops=500,900"]).lr
        0.05
    """
    changes = dict(_parse(assignment) for assignment in assignments)
    options = dict(recipe.options) | {key: changes.pop(key) for key in option_names() if key in changes}
    return replace(recipe, **changes, options=given(**options))


_STORED_NAMES = {"redistribution": "share", "schedule": "prune_schedule"}
"""Names that files have for options since 0.1, by the names that the updaters have for them."""


def stored_name(key: str) -> str:
    """Returns the name under which files have a setting, whichever of its spellings was typed.

    Example:
        >>> stored_name("redistribution"), stored_name("lr")
        ('share', 'lr')
    """
    return _STORED_NAMES.get(key, key)


def own_name(key: str) -> str:
    """Returns the name of the field or option, whichever of its spellings was typed.

    Example:
        >>> own_name("share"), own_name("lr")
        ('redistribution', 'lr')
    """
    return {stored: own for own, stored in _STORED_NAMES.items()}.get(key, key)


def _parse(assignment: str) -> tuple[str, Any]:
    key, equals, text = assignment.partition("=")
    key = own_name(key)
    options = option_names()
    if not equals or key not in (*setting_names(), *options):
        problem = f"{key!r} is not a setting" if equals else f"{assignment!r} must have the form key=value"
        raise UsageError(f"{problem}; the settings are {', '.join((*setting_names(), *options))}")
    annotation = known_options()[key].type if key in options else str(Recipe.__dataclass_fields__[key].type)
    kind, parser = _PARSERS[annotation]
    try:
        return key, parser(text)
    except (ValueError, KeyError):
        raise UsageError(f"{key}={text!r} must be {kind}, such as {key}={_example(annotation)}") from None


def _example(annotation: str) -> str:
    whole = dict.fromkeys(("int", "int | None", "int | Literal['all'] | None"), "100")
    examples = {"bool": "true", "tuple[int, ...]": "25000,50000", "float": "0.1", **whole}
    return examples.get(annotation, "0.5")
