"""Cannistraci-Hebb training: growth by the topology alone, hard, soft, and with a density that falls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import regrow.criteria as criteria
from regrow.redistribution import to_density
from regrow.schedules import Schedule, prune_rate_schedule, sigmoid_density

from .composed import ComposedUpdater
from .final_density import final_step, initial_density

__all__ = ["CHT", "CHTs", "CHTss"]

_REMOVAL: dict[str, criteria.PruneScore] = {
    "magnitude": criteria.magnitude,
    "relative-importance": criteria.relative_importance,
}


class CHT(ComposedUpdater):
    """Cannistraci-Hebb training (Zhang et al. 2024, "Epitopological learning and Cannistraci-Hebb network shape").

    At an update each layer prunes its weights of smallest magnitude, and grows as many links as its own topology
    predicts best: those with the largest CH3-L3 score, by paths of length 3 (see `criteria.link_prediction`). No
    gradient of inactive weights is used. Grown weights start at 0, with momentum 0 and their layer's mean second
    moment.

    Args:
        model: a model from `sparsify`; the authors' newer work starts from `regrow.receptive_fields`.
        optimizer: any.
        total_steps: optimizer steps T of the whole training.
        update_every: optimizer steps between updates, 1 to T (the paper: an epoch); None: by hand, with `update()`.
        prune_rate: zeta, fraction of a layer's weights that an update replaces, in [0, 1).
        schedule: "constant" (the paper), "cosine" or "linear", see `schedules.prune_rate_schedule`.
        score: "ch3-l3p" (the paper), "ch3-l3n" or "ch2-l3n".
        seed: seed of what fills up where too few links have a score; None draws one from torch's global generator.

    Raises:
        ValueError: as `ComposedUpdater`; nothing is changed.

    Example:
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.CHT(model, optimizer, total_steps=54_000, update_every=540, seed=0)
    """

    method = "cht"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        prune_rate: float = 0.3,
        schedule: str = "constant",
        score: str = "ch3-l3p",
        seed: int | None = None,
    ):
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=prune_rate_schedule(schedule, prune_rate, max(total_steps, 1)),
            prune=criteria.magnitude,
            grow=criteria.link_prediction(score, soft=False),
            seed=seed,
        )


class CHTs(ComposedUpdater):
    """Cannistraci-Hebb training with the soft rule (Zhang et al. 2025, arXiv:2501.19107, section 3).

    At an update each layer keeps a random sample of its weights, drawn in proportion to a power of their magnitude, and
    grows links drawn in proportion to their CH2-L3n score, the node-based approximation. The power rises during the
    training, so that pruning becomes pruning by magnitude. No gradient of inactive weights is used.

    Args:
        model: a model from `sparsify`; the paper starts from `regrow.receptive_fields`.
        optimizer: any.
        total_steps: optimizer steps T of the whole training.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`.
        prune_rate: zeta, fraction of a layer's weights that the first update replaces, in [0, 1).
        schedule: "cosine" (the paper), "constant" or "linear", see `schedules.prune_rate_schedule`.
        score: "ch2-l3n" (the paper), "ch3-l3n" or "ch3-l3p".
        removal: "magnitude" or "relative-importance" (|w| as a share of its row and of its column).
        first_temperature: power at the start, at least 0.
        last_temperature: power at T, at least `first_temperature`; 9 in the authors' scripts for Transformers.
        seed: seed of all draws; None draws one from torch's global generator.

    Raises:
        ValueError: as `ComposedUpdater`; nothing is changed.

    Example:
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.CHTs(model, optimizer, total_steps=54_000, update_every=540, seed=0)
    """

    method = "chts"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        prune_rate: float = 0.3,
        schedule: str = "cosine",
        score: str = "ch2-l3n",
        removal: str = "magnitude",
        first_temperature: float = 1.0,
        last_temperature: float = 9.0,
        seed: int | None = None,
    ):
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=prune_rate_schedule(schedule, prune_rate, max(total_steps, 1)),
            prune=_soft_removal(removal, first_temperature, last_temperature, total_steps),
            grow=criteria.link_prediction(score, soft=True),
            seed=seed,
        )


class CHTss(ComposedUpdater):
    """CHTs with a density that falls as a sigmoid (Zhang et al. 2025, arXiv:2501.19107, section 3).

    Starts from the density that the model has (the paper: 0.5; on the command line 1). See `CHTs` and
    `schedules.sigmoid_density`.

    Args:
        model: `sparsify(model, 0.5, storage="masked")`, or another density not below the final one.
        optimizer: any.
        total_steps: optimizer steps T of the whole training.
        update_every: optimizer steps between updates, 1 to T; None: by hand, with `update()`.
        density: final density, in (0, 1).
        end: fraction of T at which the density stops falling; the first update at or after it reaches the final one.
        steepness: k of the sigmoid, above 0; 6 in the authors' code.
        prune_rate: as in `CHTs`.
        schedule: as in `CHTs`.
        score: as in `CHTs`.
        removal: as in `CHTs`.
        first_temperature: as in `CHTs`.
        last_temperature: as in `CHTs`.
        seed: as in `CHTs`.

    Raises:
        ValueError: as `ComposedUpdater`, and if no update comes after `end`; nothing is changed.

    Example:
        >>> model = regrow.sparsify(make_model(), 0.5, storage="masked")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.CHTss(model, optimizer, total_steps=54_000, update_every=540, density=0.05, seed=0)
    """

    method = "chtss"
    starts_dense = True
    updates = 100

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        density: float,
        end: float = 0.75,
        steepness: float = 6.0,
        prune_rate: float = 0.3,
        schedule: str = "cosine",
        score: str = "ch2-l3n",
        removal: str = "magnitude",
        first_temperature: float = 1.0,
        last_temperature: float = 9.0,
        seed: int | None = None,
    ):
        last = final_step(model, density, total_steps, update_every, end)
        self._initial_density = initial_density(model, density)

        def falling(step: int) -> float:
            return sigmoid_density(self._initial_density, density, 0, last, steepness)(step)

        falling(0)  # refuses what cannot be
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=prune_rate_schedule(schedule, prune_rate, max(total_steps, 1)),
            prune=_soft_removal(removal, first_temperature, last_temperature, total_steps),
            target=to_density(falling),
            grow=criteria.link_prediction(score, soft=True),
            seed=seed,
        )

    def _own_state(self) -> dict[str, Any]:
        return {"initial_density": self._initial_density}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        self._initial_density = state["initial_density"]


def _soft_removal(removal: str, first: float, last: float, total_steps: int) -> criteria.PruneScore:
    if removal not in _REMOVAL:
        raise ValueError(f"removal={removal!r} is unknown; use one of {', '.join(_REMOVAL)}")
    if not 0 <= first <= last:
        raise ValueError(f"first_temperature={first} must be at least 0 and at most last_temperature={last}")

    def temperature(step: int) -> float:
        return first + (last - first) * min(step / max(total_steps, 1), 1.0)

    rising: Schedule = temperature
    return criteria.sampled(_REMOVAL[removal], rising)
