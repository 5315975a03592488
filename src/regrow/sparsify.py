"""Model surgery: make a model sparse, make it dense again, and say what it is."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from .distributed import GradientMean, leave_to_ddp, leave_to_us
from .extras import hand_over, keep_marks
from .initial import active_sets, matching
from .nn._positions import check_dense
from .nn.blocked import Conversion, trace
from .reparametrised import is_gain, refuse_normalised
from .storage import (
    Storage,
    check_storage,
    compress,
    keep_blocked,
    leave_blocked,
    materialise,
    on_meta,
    replace_module,
    used_elsewhere,
    why_masked,
)
from .stray import check, refuse_stray
from .weights import MaskedWeight, mask_parameter, plain_name, sparse_weights, unmask_parameter, unwrapped

__all__ = ["Patterns", "Summary", "densify", "prunable", "select", "sparsify", "summary"]

_NORMALISATIONS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)


Patterns = Sequence[str | type[nn.Module]]
"""What `dense` takes: names and patterns of names, and types of modules."""


@dataclass(frozen=True)
class Prunable:
    """A parameter that can be made sparse, and where it is."""

    module: nn.Module
    attribute: str
    parameter: nn.Parameter


def sparsify(
    model: nn.Module,
    density: float | None,
    *,
    distribution: str | Mapping[str, float] = "uniform",
    init: str | Mapping[str, Tensor] = "random",
    dense: Patterns = (),
    storage: Storage = "auto",
    seed: int | None = None,
    rescale: bool = False,
    tune: bool = False,
) -> nn.Module:
    """Makes the weights of a model sparse, from now on; use the returned model.

    Sparse becomes every trainable floating parameter with two or more dimensions of a module that is not a
    normalisation, but for gains, which scale or shift whole rows of others; tied parameters count once. The active sets
    are uniformly random and of exact size: the network has round(density * positions) active weights, at least one a
    layer. Active weights keep their values, unscaled.

    Layers on the meta device have no values to keep: their active weights are drawn as the layer's `reset_parameters`
    draws them, from torch's global generator. Compressed ones may be of any size, for nothing dense is made of them;
    the other modules there are made whole.

    Args:
        model: a dense model; changed in place. A root that is itself a layer may be replaced, so use the return value.
        density: share of active positions over all sparse weights, in (0, 1]. None where `init` gives masks.
        distribution: how the weights are shared among layers at first: "uniform", "er" or "erk" (see
            `regrow.allocation.initial_counts`), or a mapping from name patterns to densities; layers that match no
            pattern get `density`. "network", with scores or "magnitude" as `init`: the largest of the whole network,
            wherever they are, at least one a layer.
        init: which positions are active: "random", "magnitude" (the largest weights of each layer), a mapping from
            parameter names to scores (the largest are active), or to boolean masks or ascending positions (int64, shape
            (active,)), which then decide all counts.
        dense: names or patterns (`fc3`, `layer1.*`, `*.embedding`) of parameters or modules that stay dense, or types
            of modules (`torch.nn.Embedding`) whose own parameters do.
        storage: "masked" (a dense parameter and a mask; works everywhere), "compressed" (only the active values, with
            kernels of our own; Linear and Conv2d on the CPU that nobody else reads and whose replacement loses nothing,
            other layers stay masked), or "auto": compressed up to a density of 0.3. `summary` says which layer got what
            and why.
        seed: of the random positions; None draws from torch's global generator. Where several processes train
            together, an updater gives all of them rank 0's.
        rescale: active values are multiplied by density^-1/2 of their layer, so that its outputs keep the variance that
            they have dense. Where a unit has few inputs left, training would begin with hardly any signal (Evci et al.
            2022, arXiv:2010.03533, section 3, who do it by neuron).
        tune: a compressed layer that has become nearly dense computes through torch's dense operator. A table says from
            which density; with True each layer measures it instead, when an input shape first comes (eight shapes at
            most; seconds for a large layer). The state dict keeps what was measured: a resumed run gives the same bits.

    Raises:
        ValueError: a value out of range, a pattern that matches nothing, a model that is sparse already, or a weight
            that weight_norm divides row by row; the message names the remedy, and nothing is changed.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(784, 300), torch.nn.ReLU(), torch.nn.Linear(300, 10))
        >>> net = regrow.sparsify(net, density=0.05, dense=["2"])
        >>> regrow.sparse_weights(net)["0.weight"].active
        11760
        >>> wide = torch.nn.Linear(250_000, 250_000, device="meta")  # dense, 250 GB
        >>> regrow.summary(regrow.sparsify(wide, density=1e-7)).active
        6250
    """
    _check_arguments(density, init, storage)
    chosen = select(model, dense, also=() if isinstance(init, str) else init)
    parameters = {name: place.parameter for name, place in chosen.items()}
    active = active_sets(parameters, density, distribution, init, seed)
    root = unwrapped(model)
    elsewhere = used_elsewhere(root)
    reasons = {name: _why_masked(elsewhere, place, active[name], storage) for name, place in chosen.items()}
    compressed = [place.module for name, place in chosen.items() if reasons[name] is None]
    materialise(on_meta(root, compressed))
    for name, place in chosen.items():
        reason = reasons[name]
        if reason is not None:
            mask_parameter(place.module, place.attribute, _mask(place.parameter.shape, active[name]), reason)
        else:
            why = "compressed was asked for" if storage == "compressed" else "auto"
            layer = compress(place.module, active[name], why)  # type: ignore[arg-type]
            layer.tune = tune
            model = replace_module(model, place.module, layer)
    keep_blocked(unwrapped(model))
    if rescale:
        for weight in sparse_weights(model).values():
            weight.write(weight.values * weight.density**-0.5)
    GradientMean.hang_on(model)
    leave_to_us(model)
    return model


def _why_masked(elsewhere: Mapping[int, str], place: Prunable, active: Tensor, storage: Storage) -> str | None:
    return why_masked(elsewhere, place.module, place.parameter, active.numel() / place.parameter.numel(), storage)


def _mask(shape: torch.Size, positions: Tensor) -> Tensor:
    return torch.zeros(shape.numel(), dtype=torch.bool).index_fill_(0, positions, True).view(shape)


def prunable(model: nn.Module, also: Collection[str] = ()) -> dict[str, Prunable]:
    """The parameters that `sparsify` makes sparse, by name, each once.

    Args:
        also: names of gains (see `reparametrised`) that count all the same, such as those of masks that are given.

    Raises:
        ValueError: the model is sparse already; a lazy module has not seen data; or an embedding has sparse gradients.
    """
    found = _with_gains(model).items()
    return {name: place for name, place in found if name in also or not is_gain(place.module, place.attribute)}


def _with_gains(model: nn.Module) -> dict[str, Prunable]:
    """The prunable parameters and the gains, by name, each once."""
    if already := sparse_weights(model):
        raise ValueError(
            f"the model is sparse already ({next(iter(already))} and {len(already) - 1} more); use "
            "regrow.densify(model) first to start over"
        )
    found: dict[str, Prunable] = {}
    seen: set[int] = set()
    for path, module in unwrapped(model).named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            name = plain_name(f"{path}.{attribute}" if path else attribute)
            if isinstance(parameter, UninitializedParameter):
                raise ValueError(f"{name} is a lazy parameter without a shape; run one batch through the model first")
            if id(parameter) in seen or not _is_prunable(module, parameter):
                continue
            if getattr(module, "sparse", False) and isinstance(module, nn.Embedding | nn.EmbeddingBag):
                raise ValueError(
                    f"{name} belongs to an embedding with sparse=True, whose gradients have no dense positions; make "
                    "it with sparse=False, or freeze it"
                )
            if hasattr(module, f"{attribute}_mask"):
                raise ValueError(
                    f"{name} has a {attribute}_mask beside it already, which is not regrow's; take it away first, "
                    f"such as with torch.nn.utils.prune.remove(module, {attribute!r})"
                )
            seen.add(id(parameter))
            found[name] = Prunable(module, attribute, parameter)
    return found


def densify(model: nn.Module, *, keep_inactive: bool = False) -> nn.Module:
    """A plain dense copy of a sparse model, with zeros where weights were inactive; the model itself stays as it is.

    Args:
        model: sparse, in any storage.
        keep_inactive: take inactive weights as they are, even if they are not 0 (see `regrow.check`).

    Raises:
        ValueError: a weight has 2^31 positions or more, too many to be made dense; or an inactive weight is not 0, so
            that the copy would compute something else than the model.

    Example:
        >>> plain = regrow.densify(model)
        >>> torch.save(plain.state_dict(), "dense.pt")
    """
    for name, weight in sparse_weights(model).items():
        check_dense(name, weight.numel)
    if not keep_inactive:
        refuse_stray(model, "a dense copy")
    model, original = copy.deepcopy(model), model
    keep_marks(original, model)
    leave_to_ddp(model)
    GradientMean.take_off(model)
    for weight in sparse_weights(model).values():
        if isinstance(weight, MaskedWeight):
            unmask_parameter(weight)
        else:
            dense = weight.module.to_dense()  # type: ignore[operator]
            hand_over(weight.module, dense)
            model = replace_module(model, weight.module, dense)
    leave_blocked(unwrapped(model))
    return model


@dataclass(frozen=True)
class SummaryRow:
    """One sparse weight."""

    name: str
    shape: tuple[int, ...]
    active: int
    numel: int
    storage: str
    why: str
    stray: int = 0
    """Inactive weights that are not 0; see `regrow.check`."""

    @property
    def density(self) -> float:
        """Share of positions that compute: active ones, and stray ones."""
        return (self.active + self.stray) / self.numel


@dataclass(frozen=True)
class Summary:
    """What is sparse in a model; prints as a table.

    Attributes:
        rows: one a sparse weight. parameters: all positions of all parameters, dense ones included; None where a file
            does not tell them from buffers.
        conversions: of activations into and out of the kernels' layout, in one forward and backward pass; None where no
            example input was given.
    """

    rows: tuple[SummaryRow, ...]
    parameters: int | None
    conversions: tuple[Conversion, ...] | None = None

    @property
    def active(self) -> int:
        """Active weights of all layers."""
        return sum(row.active for row in self.rows)

    @property
    def numel(self) -> int:
        """Positions of all sparse weights."""
        return sum(row.numel for row in self.rows)

    @property
    def stray(self) -> int:
        """Inactive weights of all layers that are not 0, and so compute all the same; see `regrow.check`."""
        return sum(row.stray for row in self.rows)

    @property
    def density(self) -> float:
        """Share of positions that compute, over all sparse weights: active and stray ones; 1 for a dense model."""
        return (self.active + self.stray) / self.numel if self.numel else 1.0

    def __str__(self) -> str:
        head = ("layer", "shape", "active / total", "density", "storage")
        body = [
            (
                row.name,
                "x".join(map(str, row.shape)),
                f"{row.active:,} / {row.numel:,}",
                f"{row.density:.2%}",
                f"{row.storage} ({row.why})",
            )
            for row in self.rows
        ]
        total = ("total", "", f"{self.active:,} / {self.numel:,}", f"{self.density:.2%}", "")
        lines = [*_table([head, *body, total])]
        if self.parameters is not None:
            lines.append(f"{self.parameters - self.numel:,} further parameters are dense")
        return "\n".join([*lines, *self._stray_lines(), *self._conversion_lines()])

    def _stray_lines(self) -> list[str]:
        names = ", ".join(f"{row.name} ({row.stray:,})" for row in self.rows if row.stray)
        return [f"inactive weights that are not 0, and compute: {names}; see regrow.check(model)"] if names else []

    def _conversion_lines(self) -> list[str]:
        if self.conversions is None:
            return []
        count = f"{len(self.conversions)} conversions of activations in a forward and backward pass"
        return [count, *(f"  {conversion}" for conversion in self.conversions)]


def summary(model: nn.Module, example_input: Any = None) -> Summary:
    """What is sparse in a model, how much, and in which storage and why.

    Inactive weights that are not 0 count in densities, and are warned of.

    Args:
        model: sparse or dense.
        example_input: what the model is called with: a tensor, a tuple of arguments, or a mapping of keyword arguments.
            Given that, the summary also lists where activations are converted into and out of the layout of the
            convolution kernels: once in and once out is best; anything between names an operation that has no kernel
            there. A copy of the model runs.

    Raises:
        ValueError: the model cannot be called with the example input.

    Example:
        >>> print(regrow.summary(model, batch))
    """
    for text in check(model):
        warnings.warn(text, stacklevel=2)
    rows = tuple(
        SummaryRow(w.name, tuple(w.shape), w.active, w.numel, w.storage, w.why, w.stray())
        for w in sparse_weights(model).values()
    )
    sparse = {id(weight.parameter) for weight in sparse_weights(model).values()}
    dense = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in sparse)
    conversions = None if example_input is None else tuple(trace(model, example_input))
    return Summary(rows, dense + sum(row.numel for row in rows), conversions)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    rule = "  ".join("-" * width for width in widths)
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _check_arguments(density: float | None, init: Any, storage: str) -> None:
    if density is not None and not 0 < density <= 1:
        raise ValueError(f"density={density} must be above 0 and at most 1, such as 0.05 for 5 % of the weights")
    check_storage(storage)
    if isinstance(init, str) and init not in ("random", "magnitude"):
        raise ValueError(f"init={init!r} is unknown; use 'random', 'magnitude', or a mapping of scores or masks")


def _is_prunable(module: nn.Module, parameter: nn.Parameter) -> bool:
    return (
        parameter.requires_grad
        and parameter.is_floating_point()
        and parameter.dim() >= 2
        and parameter.numel() > 0
        and not isinstance(module, _NORMALISATIONS)
    )


def select(model: nn.Module, dense: Patterns, also: Collection[str] = ()) -> dict[str, Prunable]:
    """The prunable parameters (see `prunable`) without those that `dense` names; it may name gains, too.

    Raises:
        ValueError: a pattern matches nothing, or nothing is left; or weight normalisation divides one that is left.
    """
    if isinstance(dense, str):
        raise ValueError(f"dense={dense!r} must be a list of patterns, such as dense=[{dense!r}]")
    found, named = prunable(model, also), _with_gains(model)
    kept_dense: set[str] = set()
    for pattern in dense:
        kept_dense |= matching(named, pattern, "dense") if isinstance(pattern, str) else _of_type(named, pattern)
    chosen = {name: place for name, place in found.items() if name not in kept_dense}
    if not chosen:
        raise ValueError(
            "nothing to make sparse: no trainable floating parameter with two or more dimensions outside "
            f"normalisations is left ({len(kept_dense)} are kept dense by dense={list(dense)})"
        )
    for name, place in chosen.items():
        refuse_normalised(name, place.module, place.attribute)
    return chosen


def _of_type(found: Mapping[str, Prunable], kind: type[nn.Module]) -> set[str]:
    """The names of the parameters that modules of a type hold themselves."""
    matches = {name for name, place in found.items() if isinstance(place.module, kind)}
    if not matches:
        kinds = sorted({type(place.module).__name__ for place in found.values()})
        raise ValueError(f"dense: no prunable parameter belongs to a module of type {kind.__name__}, but to {kinds}")
    return matches
