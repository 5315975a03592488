"""Pruning of a trained dense model with a few examples: which weights stay, and what the others leave to them.

Each function takes a dense model and calibration batches. `wanda` returns scores, the others return masks and write the
weights that stay into the model, so that it computes nearly what it did before. Then call
`sparsify(model, density=None, init=masks)` and train on, or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from regrow import topology
from regrow.saliency import Batches, Loss, gradients_of_examples, untouched
from regrow.topology.distributions import initial_counts
from regrow.weights.activity import geometry_of, is_known
from regrow.weights.prunable import Patterns, Prunable, select

__all__ = ["layerwise_obs", "obs", "sparsegpt", "wanda"]

_LARGEST_HESSIAN = 10_000
"""Weights up to which `obs` inverts the Hessian of all of them: 800 MB."""


def wanda(
    model: nn.Module, batches: Iterable[Any], *, compare: str = "output", dense: Patterns = ()
) -> dict[str, Tensor]:
    """|w| times the norm of its input (Wanda, Sun et al. 2024, arXiv:2306.11695, section 3).

    The norm of input j is (sum of x_j^2)^1/2 over all calibration vectors, of a convolution over all its windows. All
    layers see the inputs of the dense model; the authors prune layer by layer.

    Args:
        model: a trained dense model, in the mode in which to score it.
        batches: inputs, or pairs (inputs, targets), of which the targets are not used.
        compare: "output" (the paper): each output keeps the same number of its weights, up to one; "layer": the largest
            products of a layer stay.
        dense: as in `sparsify`.

    Returns:
        Scores of each prunable parameter, of its shape, float64. With "output" they are ranks among the weights of an
        output, so use them with every distribution but "global".

    Raises:
        ValueError: there is no batch, the model is already sparse, or a weight is neither that of a Linear layer nor of
            a plain Conv2d.

    Example:
        >>> dense = make_model()
        >>> scores = regrow.wanda(dense, [batch])
        >>> regrow.summary(regrow.sparsify(dense, 0.5, init=scores)).active
        11910
    """
    if compare not in ("output", "layer"):
        raise ValueError(f"compare={compare!r} is unknown; use 'output' or 'layer'")
    places, batches = _places(model, dense), list(batches)
    seen = _inputs(model, places, batches, lambda x: x.square().sum(0))
    scores = {}
    for name, place in places.items():
        weight = place.parameter.detach().double()
        products = weight.flatten(1).abs() * seen[name].sqrt()
        scores[name] = (_ranks(products) if compare == "output" else products).view_as(weight)
    return scores


def sparsegpt(
    model: nn.Module,
    batches: Iterable[Any],
    density: float,
    *,
    distribution: str = "uniform",
    block: int = 128,
    damping: float = 0.01,
    dense: Patterns = (),
) -> dict[str, Tensor]:
    """Prunes column by column and makes up for it in the columns to come (SparseGPT, Frantar & Alistarh 2023).

    arXiv:2301.00774, section 3.3 and algorithm 1. With H = X'X + damping * mean(diag) of a layer's inputs X, and U the
    upper Cholesky factor of its inverse, the weights of smallest w^2 / U_jj^2 of each block of columns are pruned, and
    what that changes in the layer's output is made up for by the weights of later columns. Layers follow each other as
    they run, so each sees the inputs of the pruned ones before it. The weights that stay are changed in the model.

    Args:
        model: a trained dense model; its weights change.
        batches: inputs, or pairs (inputs, targets), of which the targets are not used.
        density: share of weights that stay, in (0, 1].
        distribution: "uniform", "er" or "erk", as in `sparsify`.
        block: columns that are pruned together, at least 1.
        damping: lambda, as a fraction of the mean of the diagonal, above 0.
        dense: as in `sparsify`.

    Returns:
        Masks of each prunable parameter, bool, of its shape, for `sparsify(density=None, init=masks)`.

    Raises:
        ValueError: a value is out of range, or as in `wanda`; nothing is changed.

    Example:
        >>> dense = make_model()
        >>> masks = regrow.sparsegpt(dense, [batch], density=0.5)
        >>> regrow.summary(regrow.sparsify(dense, density=None, init=masks)).active
        11910
    """
    if block < 1:
        raise ValueError(f"block={block} must be at least 1")

    def prune(weight: Tensor, hessian: Tensor, count: int) -> Tensor:
        return _sparsegpt_layer(weight, hessian, count, block)

    return _layer_by_layer(model, batches, density, distribution, damping, dense, prune)


def layerwise_obs(
    model: nn.Module,
    batches: Iterable[Any],
    density: float,
    *,
    distribution: str = "uniform",
    damping: float = 0.01,
    dense: Patterns = (),
) -> dict[str, Tensor]:
    """Prunes each layer by the change of its output (layer-wise optimal brain surgeon, Dong et al. 2017).

    arXiv:1705.07565, section 3. With H = X'X + damping * mean(diag) of a layer's inputs X, the weights of smallest
    w_q^2 / (2 [H^-1]_qq) are pruned, and the others become those that change the layer's output least. Layers follow
    each other as they run. The weights that stay are changed in the model.

    Args:
        model: a trained dense model; its weights change.
        batches: as in `sparsegpt`.
        density: as in `sparsegpt`.
        distribution: as in `sparsegpt`.
        damping: as in `sparsegpt`.
        dense: as in `sparsify`.

    Returns:
        Masks, as `sparsegpt`.

    Example:
        >>> dense = make_model()
        >>> masks = regrow.layerwise_obs(dense, [batch], density=0.5)
        >>> dense = regrow.sparsify(dense, density=None, init=masks)
    """
    return _layer_by_layer(model, batches, density, distribution, damping, dense, _obs_layer)


def obs(
    model: nn.Module,
    batches: Batches,
    density: float,
    *,
    loss: Loss = cross_entropy,
    damping: float = 1e-4,
    dense: Patterns = (),
) -> dict[str, Tensor]:
    """Deletes weights one by one and adjusts all others (optimal brain surgeon, Hassibi & Stork 1992, section 2).

    H = damping * I + mean of g g' over examples, g the gradient of one example's loss. Each step deletes the weight of
    smallest L_q = w_q^2 / (2 [H^-1]_qq), changes all others by -w_q / [H^-1]_qq * H^-1 e_q, and takes the weight out of
    H. Each layer keeps at least one weight. The weights that stay are changed in the model.

    Args:
        model: a trained dense model with at most 10,000 prunable weights; it sees one example at a time, so BatchNorm
            must be in eval mode. Its weights change.
        batches: pairs (inputs, targets); their first dimension is the examples.
        density: share of weights that stay, in (0, 1].
        loss: (outputs, targets) -> scalar.
        damping: alpha of the paper, above 0.
        dense: as in `sparsify`.

    Returns:
        Masks, as `sparsegpt`.

    Raises:
        ValueError: the network is too large, or as in `sparsegpt`; nothing is changed.

    Example:
        >>> small = torch.nn.Sequential(torch.nn.Linear(784, 3), torch.nn.ReLU(), torch.nn.Linear(3, 10))
        >>> masks = regrow.obs(small, [(batch, torch.tensor([0, 1]))], density=0.9)
        >>> small = regrow.sparsify(small, density=None, init=masks)
    """
    places = select(model, dense)
    weights = {name: place.parameter for name, place in places.items()}
    sizes = [weight.numel() for weight in weights.values()]
    keep = sum(_counts(places, density, "uniform"))
    _check_damping(damping)
    if sum(sizes) > _LARGEST_HESSIAN:
        raise ValueError(
            f"obs inverts a matrix of {sum(sizes):,} x {sum(sizes):,} weights, more than {_LARGEST_HESSIAN:,}; use "
            "layerwise_obs, which needs one of the inputs of a layer"
        )
    values = torch.cat([weight.detach().double().reshape(-1) for weight in weights.values()])
    with untouched(model):
        rows = [
            torch.cat([g.reshape(-1) for g in one]).double()
            for one in gradients_of_examples(model, weights, batches, loss)
        ]
    stack = torch.stack(rows)
    hessian = stack.t() @ stack / len(rows)
    hessian.diagonal().add_(damping)
    values, stays = _surgeon(values, torch.linalg.inv(hessian), keep, sizes)
    masks = {}
    parts = zip(weights.items(), values.split(sizes), stays.split(sizes), strict=True)
    for (name, weight), part, mask in parts:
        with torch.no_grad():
            weight.copy_(part.view_as(weight))
        masks[name] = mask.view_as(weight)
    return masks


def _surgeon(values: Tensor, inverse: Tensor, keep: int, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Deletes weights until `keep` are left; the values then, and which are left."""
    stays = torch.ones(values.numel(), dtype=torch.bool, device=values.device)
    layer = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(values.device)
    left = list(sizes)
    full = torch.tensor(sizes, device=values.device)[layer] == 1
    for _ in range(values.numel() - keep):
        saliency = torch.where(stays & ~full, values.square() / (2 * inverse.diagonal()), math.inf)
        q = int(saliency.argmin())
        column = inverse[:, q] / inverse[q, q]
        values = values - values[q] * column
        inverse.addr_(column, inverse[q].clone(), alpha=-1)
        stays[q] = False
        values[~stays] = 0
        inverse.diagonal()[~stays] = 1  # so that nothing is divided by 0
        left[int(layer[q])] -= 1
        if left[int(layer[q])] == 1:
            full |= layer == layer[q]
    return values, stays


def _ranks(products: Tensor) -> Tensor:
    """Of each row, the largest first: so many below it, plus less than one by which rows come in an order."""
    order = products.argsort(dim=1, stable=True)
    ranks = torch.empty_like(products)
    ranks.scatter_(
        1, order, torch.arange(products.size(1), dtype=products.dtype, device=products.device).expand_as(products)
    )
    return ranks + 0.5 * products / products.max().clamp(min=1e-300)


def _places(model: nn.Module, dense: Patterns) -> dict[str, Prunable]:
    places = select(model, dense)
    if strange := [name for name, place in places.items() if not is_known(place.module, place.attribute)]:
        raise ValueError(
            f"the inputs of {', '.join(strange)} are not known, because only Linear and plain Conv2d are; leave them "
            "dense with dense=[...], here and in sparsify"
        )
    return places


def _inputs(
    model: nn.Module, places: Mapping[str, Prunable], batches: Sequence[Any], measure: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Sums of a measure of the input vectors (n, columns), float64, of each layer over all batches."""
    if not batches:
        raise ValueError("batches holds no example; give a list, because a generator is empty once it has been read")
    sums: dict[str, Tensor] = {}

    def listen(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            found = measure(_vectors(module, inputs[0].detach()))
            sums[name] = sums[name] + found if name in sums else found

        return hook

    handles = [place.module.register_forward_pre_hook(listen(name)) for name, place in places.items()]
    try:
        with untouched(model), torch.no_grad():
            for batch in batches:
                model(batch[0] if isinstance(batch, tuple | list) else batch)
    finally:
        for handle in handles:
            handle.remove()
    if unused := [name for name in places if name not in sums]:
        raise ValueError(f"{', '.join(unused)} took no part in the forward pass; leave them dense with dense=[...]")
    return sums


def _vectors(module: nn.Module, input: Tensor) -> Tensor:
    if isinstance(module, nn.Linear):
        return input.reshape(-1, input.size(-1)).double()
    kernel, stride, padding, dilation = geometry_of(module)  # type: ignore[misc]
    images = input.reshape(-1, *input.shape[-3:]).double()
    patches = nn.functional.unfold(images, kernel, dilation=dilation, padding=padding, stride=stride)
    return patches.transpose(1, 2).reshape(-1, patches.size(1))


def _counts(places: Mapping[str, Prunable], density: float, distribution: str) -> list[int]:
    if not 0 < density <= 1:
        raise ValueError(f"density={density} must be above 0 and at most 1")
    return initial_counts([place.parameter.shape for place in places.values()], density, distribution)


def _check_damping(damping: float) -> None:
    if not (damping > 0 and math.isfinite(damping)):
        raise ValueError(f"damping={damping} must be above 0")


def _layer_by_layer(
    model: nn.Module,
    batches: Iterable[Any],
    density: float,
    distribution: str,
    damping: float,
    dense: Patterns,
    prune: Callable[[Tensor, Tensor, int], Tensor],
) -> dict[str, Tensor]:
    """Prunes the layers one after the other; `prune` gets (rows, columns), H and a count, and returns new weights."""
    _check_damping(damping)
    places, batches = _places(model, dense), list(batches)
    counts = dict(zip(places, _counts(places, density, distribution), strict=True))
    _inputs(model, places, batches, lambda x: x[:0].sum())  # refuses before anything is changed
    masks = {}
    for name, place in places.items():
        hessian = _inputs(model, {name: place}, batches, lambda x: x.t() @ x)[name]
        hessian.diagonal().add_(damping * (float(hessian.diagonal().mean()) or 1.0))
        weight = prune(place.parameter.detach().double().flatten(1), hessian, counts[name])
        masks[name] = ~weight.isnan().view_as(place.parameter)
        with torch.no_grad():
            place.parameter.copy_(weight.nan_to_num(0.0).view_as(place.parameter))
    return masks


def _sparsegpt_layer(weight: Tensor, hessian: Tensor, count: int, block: int) -> Tensor:
    """New weights, NaN where pruned."""
    weight, columns = weight.clone(), weight.size(1)
    factor = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    stays = torch.zeros_like(weight, dtype=torch.bool)
    starts = range(0, columns, block)
    widths = [min(block, columns - start) for start in starts]
    quotas = topology.round_to_total([Fraction(count * width, columns) for width in widths], count)
    for start, width, quota in zip(starts, widths, quotas, strict=True):
        end = start + width
        scores = weight[:, start:end] / factor.diagonal()[start:end]
        chosen = topology.largest(scores.square().reshape(-1), quota)
        stays[chosen // width, start + chosen % width] = True
        errors = torch.zeros_like(weight[:, start:end])
        for j in range(start, end):
            error = torch.where(stays[:, j], 0.0, weight[:, j]) / factor[j, j]
            weight[:, j:end] -= torch.outer(error, factor[j, j:end])
            errors[:, j - start] = error
        weight[:, end:] -= errors @ factor[start:end, end:]
    return weight.masked_fill(~stays, math.nan)


def _obs_layer(weight: Tensor, hessian: Tensor, count: int) -> Tensor:
    """New weights, NaN where pruned: of those that stay, the ones that change the output least."""
    scores = weight.square() / (2 * torch.linalg.inv(hessian).diagonal())
    stays = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    stays[topology.largest(scores.reshape(-1), count)] = True
    products, result = weight @ hessian, torch.full_like(weight, math.nan)
    for row, own in enumerate(stays.view_as(weight)):
        if bool(own.any()):
            result[row, own] = torch.linalg.solve(hessian[own][:, own], products[row, own])
    return result
