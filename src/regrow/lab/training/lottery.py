"""Lottery tickets: train, prune, go back, and so again until the network is as sparse as asked."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import regrow
import regrow.topology as topology
from regrow.io.atomic import write_atomically
from regrow.lab.errors import UsageError
from regrow.lab.recipes.methods import make_network, make_sparse
from regrow.lab.recipes.settings import Settings
from regrow.topology.distributions import initial_counts

from .folder import (
    CHECKPOINT,
    DESCRIPTION,
    METRICS,
    TOPOLOGY,
    TOPOLOGY_FILE,
    WEIGHTS,
    RunFolder,
    load_checkpoint,
    open_folder,
)
from .progress import Reporter
from .ticket import REWIND, Ticket

__all__ = ["find_ticket", "round_densities"]

PRUNED_A_ROUND = 0.2
"""At most; the paper's share."""


def round_densities(density: float) -> list[float]:
    """The density of each round: from 1 down by the same factor, at least 0.8, to the requested one.

    Example:
        >>> [round(density, 3) for density in round_densities(0.5)]
        [1.0, 0.841, 0.707, 0.595, 0.5]
    """
    rounds = max(1, math.ceil(math.log(density) / math.log(1 - PRUNED_A_ROUND) - 1e-9))
    return [density ** (i / rounds) for i in range(rounds)] + [density]


def find_ticket(
    train: Callable[..., dict[str, Any]],
    settings: Settings,
    out: Path,
    *,
    resume: bool = False,
    reporter: Reporter | None = None,
    **how: Any,
) -> dict[str, Any]:
    """Iterative magnitude pruning with rewinding (Frankle & Carbin 2019, arXiv:1803.03635, section 2).

    Each round is a whole training, in a folder of its own in `out`: the first of all weights, the others of the largest
    weights of the network that the round before ended with. All start from the same weights, those after
    `rewind_epochs` of the first round (Frankle et al. 2020, arXiv:1912.05671, section 3), and go on with the learning
    rate of that epoch.

    Args:
        train: trains one round, as `loop.train` does.
        settings: settings of the method "lottery".
        out: the folder of all rounds; the last round's files are copied into it.
        resume: continue where the last call ended.
        how: other arguments of `train`, the same for each round.

    Returns:
        The summary of the last round. Steps, updates and seconds are the sums of all rounds, and `flop_density_mean`
        and `train_flops` are what all rounds cost in units of one dense training.
    """
    if settings.density == 1:
        raise UsageError("a lottery ticket is sparse; set a density below 1, such as --density 0.05")
    reporter = reporter or Reporter()
    same = {"deterministic": how.get("deterministic", False)}
    folder, stored = open_folder(out, settings, resume, how.get("threads"), reporter.note, **same)
    if stored and "test_error" in stored:
        reporter.note(f"{out} is finished already")
        return stored
    folder.clear()
    ticket, summaries, last = Ticket(), [], out
    for number, density in enumerate(round_densities(settings.density)):
        of_round = replace(settings, density=density)
        last = out / f"round-{number}"
        summaries.append(train(of_round, out=last, resume=True, reporter=reporter, ticket=ticket, **how))
        ticket = _next_ticket(of_round, ticket, last, out, settings.density)
    _copy_files(last, out)
    summary = _together(summaries, settings.recipe.option("rewind_epochs", 0))
    folder.finish(summary)
    return summary


def _copy_files(last: Path, out: Path) -> None:
    """The last round's files, but for its summary, as those of the whole training."""
    for name in (CHECKPOINT, DESCRIPTION, METRICS, TOPOLOGY, TOPOLOGY_FILE, WEIGHTS):
        with write_atomically(out / name) as temporary:
            shutil.copyfile(last / name, temporary)


def _next_ticket(settings: Settings, ticket: Ticket, folder: Path, out: Path, final: float) -> Ticket:
    """The largest weights that a round ended with, as many as the next one has."""
    densities = round_densities(final)
    following = next((density for density in densities if density < settings.density), final)
    model = make_sparse(make_network(settings.recipe), settings, ticket.masks)
    model.load_state_dict(load_checkpoint(folder / CHECKPOINT)["model"])
    weights = regrow.sparse_weights(model)
    scores = {name: weight.values.abs() for name, weight in weights.items()}
    total = sum(initial_counts([weight.shape for weight in weights.values()], following))
    counts = topology.counts_of_largest(list(scores.values()), min(total, sum(s.numel() for s in scores.values())))
    masks: dict[str, Tensor] = {}
    for (name, weight), count in zip(weights.items(), counts, strict=True):
        kept = weight.indices[topology.largest(scores[name], count)]
        masks[name] = torch.zeros(weight.numel, dtype=torch.bool).index_fill_(0, kept, True).view(weight.shape)
    epoch = settings.recipe.option("rewind_epochs", 0)
    values = RunFolder(out / "round-0").kept(REWIND) if epoch else None
    return Ticket(masks, values, epoch)


def _together(summaries: Sequence[Mapping[str, Any]], rewound: int) -> dict[str, Any]:
    """The last round's summary, with what all of them cost; `rewound` epochs of later rounds are those of the first."""
    first, later = summaries[0], len(summaries) - 1
    added = ("steps", "updates", "epochs", "train_seconds", "topology_seconds", "validation_seconds")
    sums = {name: sum(summary[name] for summary in summaries) for name in added}
    flops = {name: _in_dense_trainings(name, summaries) for name in ("flop_density_mean", "train_flops")}
    sums["epochs"] -= later * rewound
    sums["steps"] -= later * rewound * (first["steps"] // first["epochs"])
    waited = sum(run["data_wait_share"] * (run["train_seconds"] - run["topology_seconds"]) for run in summaries)
    sums["data_wait_share"] = waited / (sums["train_seconds"] - sums["topology_seconds"])
    memory = max(summary["peak_rss_mb"] for summary in summaries)
    start = first["flop_density_start"]
    return {**summaries[-1], **sums, **flops, "flop_density_start": start, "peak_rss_mb": memory}


def _in_dense_trainings(name: str, summaries: Sequence[Mapping[str, Any]]) -> float | None:
    """Returns what all rounds cost, in units of one dense training; None where a round did not count it."""
    if any(summary[name] is None for summary in summaries):
        return None
    return sum(summary[name] * summary["steps"] for summary in summaries) / summaries[0]["steps"]
