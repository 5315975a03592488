"""From dense to sparse during one training: gradual magnitude pruning, Han's prune-and-retrain, AC/DC, GraNet."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import regrow.criteria as criteria
from regrow.allocation import initial_counts
from regrow.schedule import Schedule, cosine_decay, cubic_density, piecewise, step_at
from regrow.sharing import to_density
from regrow.weights import sparse_weights

from .attached import check_steps
from .updater import Updater

__all__ = ["ACDC", "GMP", "GraNet", "Han", "final_step"]


def _never(step: int) -> float:
    """No weights are exchanged."""
    return 0.0


def final_step(model: nn.Module, density: float, total_steps: int, update_every: int | None, end: float) -> int:
    """The step from which the network has its final density; refuses what cannot be."""
    check_steps(total_steps, update_every)
    if not 0 < density < 1:
        raise ValueError(f"density={density}, which the training ends with, must be between 0 and 1")
    if weights := sparse_weights(model).values():
        initial_counts([weight.shape for weight in weights], density)  # raises where a layer would have none
    step = step_at(end, total_steps)
    if update_every and (total_steps - 1) // update_every * update_every < step:
        raise ValueError(
            f"update_every={update_every} leaves no update between step {step}, from which the network has its final "
            f"density, and total_steps={total_steps}; update more often"
        )
    return step


class GMP(Updater):
    """Gradual magnitude pruning (Zhu & Gupta 2017, arXiv:1710.01878, section 3).

    Starts dense. At an update each layer prunes its weights of smallest magnitude, down to a density that falls as a
    cubic from 1 to `density`. What is pruned never comes back.

    Args:
        model: `sparsify(model, 1.0, storage="masked")`. optimizer: any.
        total_steps: optimizer steps T of the whole training; after it nothing changes.
        update_every: optimizer steps between updates, 1 to T (the paper: 100 to 1,000); None: by hand, with `update()`.
        density: at the end, in (0, 1).
        begin, end: fractions of T between which the density falls, 0 <= begin < end < 1. The final density is there
            from the first update on that comes at or after `end`.
        scope: "layer" (the paper: each layer has this density) or "network" (the smallest weights of all layers go).

    Raises:
        ValueError: as `Updater`, and where no update comes after `end`; nothing is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 1.0, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.GMP(model, optimizer, total_steps=54_000, update_every=540, density=0.05)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        density: float,
        begin: float = 0.0,
        end: float = 0.75,
        scope: str = "layer",
    ):
        last = final_step(model, density, total_steps, update_every, end)
        falling = cubic_density(1.0, density, begin * total_steps, last)
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=_never,
            prune=criteria.magnitude,
            target=to_density(falling, scope),
            grow=None,
            seed=0,
        )


def _magnitude_in_deviations(layer: criteria.Layer) -> Tensor:
    """|w| over the standard deviation of the layer's weights: one quality parameter for all layers (Han et al.)."""
    deviation = float(layer.values.double().std(correction=0)) or 1.0
    return layer.values.abs() / deviation


class Han(Updater):
    """Prune and retrain (Han et al. 2015, arXiv:1506.02626, section 3).

    Starts dense. After a part of the training all weights go that are smaller than a quality parameter times the
    standard deviation of their layer's weights; the rest is trained on, and so in several rounds. The quality
    parameter is the one that gives the density wanted, which falls by the same factor in each round.

    Args:
        model: `sparsify(model, 1.0, storage="masked")`. optimizer: any.
        total_steps: optimizer steps T of the whole training, all rounds included; after it nothing changes.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`. A round comes with
            the first update at or after its time.
        density: at the end, in (0, 1).
        rounds: how often is pruned, at least 1. begin, end: fractions of T of the first and the last round.

    Raises:
        ValueError: as `Updater`, and where no update comes after `end`; nothing is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 1.0, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.Han(model, optimizer, total_steps=54_000, update_every=540, density=0.05)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        density: float,
        rounds: int = 3,
        begin: float = 0.4,
        end: float = 0.8,
    ):
        final_step(model, density, total_steps, update_every, end)
        if rounds < 1:
            raise ValueError(f"rounds={rounds} must be at least 1")
        if not 0 < begin <= end < 1:
            raise ValueError(f"begin={begin} must be above 0 and at most end={end}, which must be below 1")
        times = [begin + (end - begin) * i / max(rounds - 1, 1) for i in range(rounds)]
        steps: dict[float, float] = {
            step_at(time, total_steps): density ** ((i + 1) / rounds) for i, time in enumerate(times)
        }
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=_never,
            prune=_magnitude_in_deviations,
            target=to_density(piecewise({0: 1.0} | steps), "network"),
            grow=None,
            seed=0,
        )


class ACDC(Updater):
    """Alternating compressed and decompressed training (Peste et al. 2021, arXiv:2106.12379, section 3).

    Starts dense. After a dense warm-up, phases in which only the largest weights of the network are trained alternate
    with dense phases, in which the others start from 0 again; the last phase is sparse.

    Args:
        model: `sparsify(model, 1.0, storage="masked")`. optimizer: any.
        total_steps: optimizer steps T of the whole training; after it nothing changes.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`. A phase begins with the
            first update at or after its time.
        density: of the sparse phases, in (0, 1).
        warmup, phase, final: fractions of T: the dense start, each phase, the last (sparse) one. The phase before the
            last is dense, and twice as long as others. Defaults: the paper's 10, 5 and 15 of 100 epochs.
        scope: "network" (the paper: the largest weights of all layers) or "layer" (each layer has this density).

    Raises:
        ValueError: as `Updater`, and where no update comes in the last phase; nothing is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 1.0, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.ACDC(model, optimizer, total_steps=54_000, update_every=540, density=0.05)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        density: float,
        warmup: float = 0.1,
        phase: float = 0.05,
        final: float = 0.15,
        scope: str = "network",
    ):
        final_step(model, density, total_steps, update_every, 1 - final)
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=_never,
            prune=criteria.magnitude,
            target=to_density(_phases(density, warmup, phase, final, total_steps), scope),
            grow=_everything,
            seed=0,
        )


def _phases(density: float, warmup: float, phase: float, final: float, total_steps: int) -> Schedule:
    """The density of each step of AC/DC."""
    if not (warmup >= 0 and phase > 0 and final > 0 and warmup + 2 * phase + final <= 1):
        raise ValueError(
            f"warmup={warmup}, two phases of phase={phase} and final={final} must be fractions that fit into 1"
        )

    first, last = step_at(warmup, total_steps), step_at(1 - final, total_steps)
    last_dense = step_at(1 - final - 2 * phase, total_steps)

    def schedule(step: int) -> float:
        if step >= last:
            return density
        if step < first or step >= last_dense:
            return 1.0
        phases_over = math.floor((step / total_steps - warmup) / phase + 1e-9)
        return density if phases_over % 2 == 0 else 1.0

    return schedule


def _everything(layer: criteria.Layer) -> Tensor:
    """Grow score where all that is missing grows."""
    return torch.zeros(layer.numel, device=layer.indices.device)


class GraNet(Updater):
    """Gradual pruning with zero-cost neuroregeneration (Liu et al. 2021, arXiv:2106.10404, section 4).

    At an update the smallest weights of the network go, down to a density that falls as a cubic from that of the model
    to `density`; then each layer exchanges a share of its weights, those of smallest magnitude for those of largest
    gradient in the last step. Grown weights start at 0, and so does their optimizer state.

    Args:
        model: sparse at the density at which the training starts: 1.0 in masked storage (dense to sparse), or less,
            such as the paper's 0.5 (sparse to sparse). optimizer: any.
        total_steps: optimizer steps T of the whole training; after it nothing changes.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`.
        density: at the end, in (0, 1), at most that of the model.
        prune_rate: share exchanged at first, in [0, 1); it falls as half a cosine to 0 at T.
        begin, end: fractions of T between which the density falls, 0 <= begin < end < 1.
        scope: "network" (the authors': the smallest weights of all layers go) or "layer".
        window_batch: examples of a batch from which compressed weights have their dense gradient; None: all.

    Raises:
        ValueError: as `Updater`, and where no update comes after `end`; nothing is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 0.5, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.GraNet(model, optimizer, total_steps=54_000, update_every=540, density=0.05)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        density: float,
        prune_rate: float = 0.5,
        begin: float = 0.0,
        end: float = 0.75,
        scope: str = "network",
        window_batch: int | None = None,
    ):
        last = final_step(model, density, total_steps, update_every, end)
        falling = cubic_density(density_of(model), density, begin * total_steps, last)
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=cosine_decay(prune_rate, end=max(total_steps, 1)),
            prune=criteria.magnitude,
            target=to_density(falling, scope),
            grow=criteria.missing_gradient,
            collect="gradient",
            window_batch=window_batch,
            seed=0,
        )


def density_of(model: nn.Module) -> float:
    """Share of active positions over all sparse weights; 1 where there are none."""
    weights = sparse_weights(model).values()
    numel = sum(weight.numel for weight in weights)
    return sum(weight.active for weight in weights) / numel if numel else 1.0
