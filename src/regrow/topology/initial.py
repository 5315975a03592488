"""Which positions of a model are active at first: random ones, those of largest score, or those that are given."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from regrow import topology
from regrow._renamed import renamed_value

from .distributions import initial_counts
from .indices import check_positions
from .lazy import LARGEST_TENSOR
from .random import draw_distinct, seeded_generator

__all__ = ["active_sets", "counts_of", "matching"]


def active_sets(
    parameters: Mapping[str, Tensor],
    density: float | None,
    distribution: str | Mapping[str, float],
    init: str | Mapping[str, Tensor],
    seed: int | None,
) -> dict[str, Tensor]:
    """The active positions of each parameter, int64, ascending; the arguments are those of `sparsify`."""
    if not isinstance(init, str):
        _check_tensors(parameters, init)
        if all(tensor.dtype == torch.bool or _are_positions(tensor) for tensor in init.values()):
            return _given(parameters, init, density)
    scores = None if init == "random" else {name: _scores(name, p, init) for name, p in parameters.items()}
    distribution = renamed_value("distribution", distribution, {"network": "global"})
    if distribution == "global":
        counts = _counts_of_network(scores, density)
    else:
        counts = counts_of(parameters, density, distribution)
    if scores is not None:
        return {name: topology.largest(scores[name], count).cpu() for name, count in counts.items()}
    generator = seeded_generator(seed)
    return {name: _random(parameters[name].numel(), count, generator) for name, count in counts.items()}


def _random(numel: int, count: int, generator: torch.Generator) -> Tensor:
    """A uniform draw; of small layers the one that there has always been, so that a seed keeps its topology."""
    if numel <= LARGEST_TENSOR:
        return torch.randperm(numel, generator=generator)[:count].sort().values
    return draw_distinct(count, numel, generator).sort().values


def _scores(name: str, parameter: Tensor, init: str | Mapping[str, Tensor]) -> Tensor:
    """The scores of one layer, flat: magnitudes, or those that were given."""
    scores = parameter.detach().abs() if isinstance(init, str) else init[name]
    if scores.is_meta:
        raise ValueError(f"init={init!r}: {name} is on the meta device, where it has no values; use init='random'")
    if not torch.isfinite(scores).all():
        raise ValueError(f"init: the scores of {name} are not all finite")
    return scores.reshape(-1)


def _counts_of_network(scores: Mapping[str, Tensor] | None, density: float | None) -> dict[str, int]:
    """Returns how many of the largest scores of all layers lie in each."""
    if scores is None or density is None:
        raise ValueError(
            "distribution='global' needs a density and scores, such as init=regrow.snip(...) or 'magnitude', "
            f"got density={density} and " + ("init='random'" if scores is None else "scores")
        )
    total = sum(initial_counts([layer.shape for layer in scores.values()], density))
    return dict(zip(scores, topology.counts_of_largest(list(scores.values()), total), strict=True))


def counts_of(
    parameters: Mapping[str, Tensor], density: float | None, distribution: str | Mapping[str, float]
) -> dict[str, int]:
    """Returns the number of active weights of each parameter; density and distribution are those of `sparsify`."""
    shapes = [parameter.shape for parameter in parameters.values()]
    if isinstance(distribution, str):
        if density is None:
            raise ValueError("density=None works only with masks as init; give a density in (0, 1]")
        return dict(zip(parameters, initial_counts(shapes, density, distribution), strict=True))
    densities = dict.fromkeys(parameters, density)
    for pattern, value in distribution.items():
        if not 0 < value <= 1:
            raise ValueError(f"distribution: the density {value} of {pattern!r} must be above 0 and at most 1")
        densities |= dict.fromkeys(matching(parameters, pattern, "distribution"), value)
    unnamed = [name for name, value in densities.items() if value is None]
    if unnamed:
        raise ValueError(f"density=None, but no pattern of distribution matches {', '.join(unnamed)}; add one")
    return {name: _layer_count(name, parameters[name].shape, value) for name, value in densities.items() if value}


def _layer_count(name: str, shape: torch.Size, density: float) -> int:
    try:
        return initial_counts([shape], density)[0]
    except ValueError as error:
        raise ValueError(f"distribution: {name}: {error}") from error


def _are_positions(tensor: Tensor) -> bool:
    return tensor.dtype == torch.int64 and tensor.dim() == 1


def _check_tensors(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    absent, unknown = [n for n in parameters if n not in tensors], [n for n in tensors if n not in parameters]
    if absent or unknown:
        raise ValueError(
            f"init must name exactly the sparse weights; missing: {absent}, unknown: {unknown}; keep layers dense with "
            "dense=[...]"
        )
    for name, tensor in tensors.items():
        shape = parameters[name].shape
        if _are_positions(tensor):
            check_positions(f"init: {name}", tensor, shape.numel())
        elif tensor.shape != shape:
            raise ValueError(f"init: {name} has shape {tuple(tensor.shape)}, but the parameter has {tuple(shape)}")


def _given(parameters: Mapping[str, Tensor], init: Mapping[str, Tensor], density: float | None) -> dict[str, Tensor]:
    """Active sets that are given as masks or positions, which must agree with a density that is given too."""
    sets = {name: init[name] if _are_positions(init[name]) else _positions(init[name]) for name in parameters}
    for name, positions in sets.items():
        if not positions.numel():
            raise ValueError(f"init: the mask of {name} has no active position; each layer needs at least one")
    active = sum(positions.numel() for positions in sets.values())
    wanted = None if density is None else round(density * sum(p.numel() for p in parameters.values()))
    if wanted not in (None, active):
        raise ValueError(
            f"density={density} asks for {wanted} active weights, but the masks of init have {active}; use "
            "density=None to take the masks as they are"
        )
    return sets


def _positions(mask: Tensor) -> Tensor:
    return mask.reshape(-1).nonzero().squeeze(1).cpu()


def matching(names: Iterable[str], pattern: str, argument: str) -> set[str]:
    """The parameter names that a pattern names, by themselves or by their module."""
    matches = {name for name in names if any(fnmatch.fnmatchcase(part, pattern) for part in _self_and_parents(name))}
    if not matches:
        raise ValueError(f"{argument}: the pattern {pattern!r} matches none of {', '.join(names)}")
    return matches


def _self_and_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
