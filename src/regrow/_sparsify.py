"""Make a model sparse, and make it dense again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .distributed import GradientMean, exclude_from_ddp, restore_to_ddp
from .nn import SparseLayer
from .topology.indices import check_dense
from .topology.initial import active_sets
from .weights import Switch, keep_switch, sparse_weights, unwrapped
from .weights.extras import keep_marks
from .weights.initial_scale import check_rescale, scale_up
from .weights.meta import materialise, on_meta
from .weights.prunable import Patterns, Prunable, select
from .weights.readers import used_elsewhere
from .weights.storage import STORAGES, Storage, check_storage, choose
from .weights.stray import check_no_stray

__all__ = ["densify", "sparsify"]


def sparsify(
    model: nn.Module,
    density: float | None,
    *,
    distribution: str | Mapping[str, float] = "uniform",
    init: str | Mapping[str, Tensor] = "random",
    dense: Patterns = (),
    storage: str = "auto",
    compress_below: float | None = None,
    seed: int | None = None,
    rescale: bool | str = "auto",
    tune: bool = False,
) -> nn.Module:
    """Makes the weights of a model sparse from now on; use the returned model.

    Every trainable floating-point parameter with two or more dimensions becomes sparse, except in normalisations and
    except gains, which scale or shift whole rows of other parameters. Tied parameters count once. The active sets are
    uniformly random and have an exact size: the network has round(density * positions) active weights, at least one a
    layer. Active weights that are drawn at random are scaled up (`rescale`); those that scores, magnitudes or masks
    choose keep their values.

    Layers on the meta device have no values to keep. Their active weights are drawn as the layer's `reset_parameters`
    draws them, from torch's global generator. Compressed layers may have any size, because they never exist dense; the
    other modules on the meta device are allocated whole.

    Args:
        model: a dense model; changed in place. A root that is itself a layer may be replaced, so use the return value.
        density: fraction of active positions over all sparse weights, in (0, 1]. None if `init` gives masks.
        distribution: initial distribution of the weights over layers: "uniform", "er" or "erk" (see
            `regrow.topology.distributions.initial_counts`), or a mapping from name patterns to densities; layers that
            match no pattern get `density`. "global", with scores or "magnitude" as `init`, takes the largest of the
            whole network, at least one a layer.
        init: which positions are active: "random", "magnitude" (the largest weights of each layer), a mapping from
            parameter names to scores (the largest are active), or to boolean masks or ascending positions (int64, shape
            (active,)), which then decide all counts.
        dense: names or patterns (`fc3`, `layer1.*`, `*.embedding`) of parameters or modules that stay dense, or types
            of modules (`torch.nn.Embedding`) whose own parameters do.
        storage: "masked" (a dense parameter and a mask; works everywhere), "compressed" (only the active values, with
            regrow's own kernels; for Linear and Conv2d on the CPU that no other code reads and whose replacement loses
            nothing; other layers stay masked), or "auto": compressed up to a density of 0.3. `summary` shows which
            layer has which storage, and why.
        compress_below: density at which a layer becomes compressed while it trains, in (0, 1), such as 0.3: for methods
            that start denser than they end (GMP, GraNet, Han, AC/DC). Layers above it are masked until a topology
            update brings them down to it. The parameter stays the same object and becomes a column, and the state of
            the optimizer follows; a layer that grows above half of its positions again is masked again. None: no layer
            changes its storage. Not with storage="masked".
        seed: seed of the random positions; None draws from torch's global generator. If several processes train
            together, an updater gives all of them rank 0's positions.
        rescale: how active values are multiplied at first, so that outputs keep the variance of the dense layer.
            "neuron": those of each output by (inputs / active inputs)^1/2 (Evci et al. 2022, arXiv:2010.03533,
            section 3). True or "layer": those of a layer by density^-1/2. False: not at all, as in the paper of sparse
            momentum; with few inputs a unit, training then begins with hardly any signal. "auto": "neuron" for random
            positions; not where `init` chose them, for they may be of a trained model
            (docs/decisions/0028-initial-scale.md).
        tune: measure the density above which a compressed layer computes with torch's dense operator. By default a
            table decides; with True each layer measures it at the first input of a shape (eight shapes at most; seconds
            for a large layer). The state dict keeps the measurement, so a resumed run gives the same bits.

    Raises:
        ValueError: a value is out of range, a pattern matches nothing, the model is already sparse, or weight_norm
            divides a weight row by row; the message names the remedy, and nothing is changed.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(784, 300), torch.nn.ReLU(), torch.nn.Linear(300, 10))
        >>> net = regrow.sparsify(net, density=0.05, dense=["2"])
        >>> regrow.sparse_weights(net)["0.weight"].active
        11760
        >>> wide = torch.nn.Linear(250_000, 250_000, device="meta")  # dense, 250 GB
        >>> regrow.summary(regrow.sparsify(wide, density=1e-7)).active
        6250
    """
    _check_arguments(density, init, storage, compress_below)
    check_rescale(rescale)
    chosen = select(model, dense, also=() if isinstance(init, str) else init)
    parameters = {name: place.parameter for name, place in chosen.items()}
    active = active_sets(parameters, density, distribution, init, seed)
    root = unwrapped(model)
    elsewhere = used_elsewhere(root)
    wanted = storage if compress_below is None else "compressed"
    storages = {
        name: choose(wanted, place.module, place.parameter, active[name].numel(), elsewhere)
        for name, place in chosen.items()
    }
    later = set() if compress_below is None else _masked_at_first(root, compress_below, chosen, active, storages)
    made_anew = [place.module for name, place in chosen.items() if storages[name][0].makes_from_meta]
    materialise(on_meta(root, made_anew))
    for name, place in chosen.items():
        kind, why = storages[name]
        model = kind.attach(model, place.module, place.attribute, active[name], why)
        if compress_below is not None and name in later:
            keep_switch(place.module, place.attribute, Switch(compress_below, tune))
    for kind in STORAGES.values():
        kind.finish(unwrapped(model))
    for module in model.modules():
        if isinstance(module, SparseLayer):
            module.tune = tune
    if rescale == "auto":
        rescale = "neuron" if isinstance(init, str) and init == "random" else False
    scale_up(sparse_weights(model).values(), rescale)
    GradientMean.hang_on(model)
    exclude_from_ddp(model)
    return model


def densify(model: nn.Module, *, keep_inactive: bool = False) -> nn.Module:
    """Returns a plain dense copy of a sparse model, with zeros where weights were inactive; the model does not change.

    Args:
        model: sparse, in any storage.
        keep_inactive: keep inactive weights as they are, even if they are not 0 (see `regrow.check`).

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
        check_no_stray(model, "a dense copy")
    model, original = copy.deepcopy(model), model
    keep_marks(original, model)
    restore_to_ddp(model)
    GradientMean.take_off(model)
    for weight in sparse_weights(model).values():
        model = STORAGES[weight.storage].densify(model, weight)
    for kind in STORAGES.values():
        kind.leave(unwrapped(model))
    return model


def _masked_at_first(
    root: nn.Module,
    compress_below: float,
    chosen: Mapping[str, Prunable],
    active: Mapping[str, Tensor],
    storages: dict[str, tuple[Storage, str]],
) -> set[str]:
    """Gives masked storage to what is too dense to be compressed yet, and returns the names of what will be."""
    switch, later = Switch(compress_below), set()
    for name, place in chosen.items():
        if storages[name][0].name != "compressed" or switch.allows(active[name].numel(), place.parameter.numel()):
            continue
        why = "the model itself cannot be replaced while it trains"
        if place.module is not root:
            why = switch.why
            later.add(name)
        storages[name] = STORAGES["masked"], why
    return later


def _check_arguments(density: float | None, init: Any, storage: str, compress_below: float | None) -> None:
    if density is not None and not 0 < density <= 1:
        raise ValueError(f"density={density} must be above 0 and at most 1, such as 0.05 for 5 % of the weights")
    check_storage(storage)
    if compress_below is not None and not 0 < compress_below < 1:
        raise ValueError(f"compress_below={compress_below} must be a density between 0 and 1, such as 0.3")
    if compress_below is not None and storage not in ("auto", "compressed"):
        raise ValueError(
            f"compress_below={compress_below} makes layers compressed, but storage={storage!r} was asked for; leave "
            "one of them out"
        )
    if isinstance(init, str) and init not in ("random", "magnitude"):
        raise ValueError(f"init={init!r} is unknown; use 'random', 'magnitude', or a mapping of scores or masks")
