"""Agreement of the windowed momentum of inactive weights with exact momentum, and the cost of each window.

A network trains by a recipe's protocol, in compressed storage, updated with exact momentum (window="all", opened so
many steps before the update that what came earlier is below rounding). 40 steps before an update it is copied; every
window and sub-batch goes on from a copy, with the same batches, and updates. All prune the same weights and grow as
many, and the positions that they grow are compared with the exact ones. "other batches" is exact momentum that has seen
other batches since the copy: by how much two exact updates differ by the luck of the draw. Writes
results/window_overlap.json.

    python benchmarks/window_overlap.py
    python benchmarks/window_overlap.py --networks lenet300 --seeds 0 --updates 1 --json /tmp/try.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import regrow
from branching import NETWORKS, Training, made
from regrow.io.atomic import write_atomically
from regrow.lab.bench.timing import times_in_turn
from regrow.lab.data.datasets import data_root
from regrow.lab.data.split import Split
from regrow.lab.recipes.recipe import Recipe
from regrow.lab.recipes.settings import make_settings
from regrow.lab.training.progress import clock
from regrow.lab.training.randomness import generator

ROOT = Path(__file__).resolve().parents[1]
WINDOWS = (5, 10, 20, 40)
SHARES = (0.25, 0.5, 1.0)
"""Fractions of a batch from which the gradients of inactive weights are taken."""
EXACT_STEPS = 200
"""0.9 to this power is 7e-10, less than float32 resolves: momentum that opens so early is exact."""
NEVER = sys.maxsize
OTHER_BATCHES = "other batches"


@dataclass(frozen=True)
class Plan:
    """The measurements to make on one network."""

    network: str
    density: float
    epochs: int
    updates: tuple[int, ...]
    protocol: Recipe
    data: Split

    @property
    def size(self) -> int:
        return self.protocol.batch_size

    @property
    def steps_per_epoch(self) -> int:
        return len(self.data) // self.size

    def start(self, seed: int) -> Training:
        torch.manual_seed(seed)
        model = regrow.sparsify(NETWORKS[self.network][0](), self.density, storage="compressed", seed=seed)
        return made(self.data, model, self.protocol, self.epochs * self.steps_per_epoch, "all")

    def batches(self, seed: int, *label: object) -> tuple[Tensor, ...]:
        """The whole batches of an epoch, in an order of its own."""
        order = torch.randperm(len(self.data), generator=generator(seed, *label))
        return order.split(self.size)[: self.steps_per_epoch]


def overlaps(plan: Plan, seed: int) -> Iterator[dict[str, Any]]:
    """A row for each measured update, window, sub-batch and layer."""
    training = plan.start(seed)
    for epoch in range(1, max(plan.updates) + 1):
        batches = plan.batches(seed, "order", epoch)
        early, middle, last = batches[:-EXACT_STEPS], batches[-EXACT_STEPS : -max(WINDOWS)], batches[-max(WINDOWS) :]
        training = training.branch(1, update_after=NEVER).trained(early)
        training = training.branch("all", update_after=EXACT_STEPS).trained(middle)
        candidates = {}
        if epoch in plan.updates:
            for window, share in itertools.product(WINDOWS, SHARES):
                branch = training.branch(window, round(share * plan.size), update_after=len(last))
                candidates[window, share] = branch.trained(last).updated()
            others = plan.batches(seed, OTHER_BATCHES, epoch)[: len(last)]
            candidates[OTHER_BATCHES, 1.0] = training.branch("all").trained(others).updated()
        exact = training.trained(last).updated()
        for (window, share), found in candidates.items():
            for name in exact[0]:
                yield {
                    "seed": seed,
                    "epoch": epoch,
                    "window": window,
                    "share": share,
                    "layer": name,
                    **{
                        key: common(f[name], e[name])
                        for key, f, e in zip(("grown", "active"), found, exact, strict=True)
                    },
                }


def common(positions: Tensor, exact: Tensor) -> tuple[int, int]:
    """Returns how many of the exact positions are there, and how many exact ones there are."""
    return int(torch.isin(exact, positions, assume_unique=True).sum()), exact.numel()


def share_of(counts: Sequence[tuple[int, int]]) -> float | None:
    """Returns the fraction of all counted positions that is in common; None if there are none."""
    total = sum(of for _, of in counts)
    return sum(both for both, _ in counts) / total if total else None


def summed_up(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a window and sub-batch: means over seeds and updates, also by layer and by update."""
    keys = dict.fromkeys((row["window"], row["share"]) for row in rows)
    table = []
    for window, share in keys:
        these = [row for row in rows if (row["window"], row["share"]) == (window, share)]

        def part(key: str, value: Any, these: list[dict[str, Any]] = these) -> float | None:
            return share_of([row["grown"] for row in these if row[key] == value])

        table.append(
            {
                "window": window,
                "batch_share": share,
                "grown": share_of([row["grown"] for row in these]),
                "active": share_of([row["active"] for row in these]),
                "grown_by_layer": {name: part("layer", name) for name in dict.fromkeys(row["layer"] for row in these)},
                "grown_by_update": {
                    epoch: part("epoch", epoch) for epoch in dict.fromkeys(row["epoch"] for row in these)
                },
                "grown_by_seed": {seed: part("seed", seed) for seed in dict.fromkeys(row["seed"] for row in these)},
            }
        )
    return table


def costs(plan: Plan, rounds: int) -> dict[str, Any]:
    """Milliseconds of processor time of a step with the window closed, and what each sub-batch adds inside a window."""
    closed = plan.start(0).branch(1, update_after=NEVER)
    trainings = {share: closed.branch(1, round(share * plan.size), update_after=0) for share in SHARES}
    index = plan.batches(0, "cost")[0]
    steps = {key: partial(training.step, index) for key, training in [("closed", closed), *trainings.items()]}
    times = {key: median(spent[rounds // 10 :]) for key, spent in times_in_turn(steps, 0, "cpu", rounds).items()}
    return {
        "step_ms": times["closed"],
        "window_step_ms": {share: times[share] - times["closed"] for share in SHARES},
    }


def measured(plan: Plan, seeds: Sequence[int], cost_steps: int) -> dict[str, Any]:
    """Agreement and cost of every window on one network."""
    cost = costs(plan, cost_steps)
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()
    for seed in seeds:
        for row in overlaps(plan, seed):
            if not rows or row["epoch"] != rows[-1]["epoch"]:
                spent = clock(time.perf_counter() - began)
                print(f"{plan.network}, seed {seed}: update {row['epoch']} at {spent}", file=sys.stderr, flush=True)
            rows.append(row)
    table = summed_up(rows)
    for row in table:
        if row["window"] != OTHER_BATCHES:
            row["interval_ms"] = row["window"] * cost["window_step_ms"][row["batch_share"]]
            row["interval_cost"] = row["interval_ms"] / (plan.steps_per_epoch * cost["step_ms"])
    return {
        "network": plan.network,
        "batch": plan.size,
        "steps_per_interval": plan.steps_per_epoch,
        **cost,
        "table": table,
    }


def written(path: Path, content: dict[str, Any]) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def shown(network: dict[str, Any]) -> None:
    print(f"\n{network['network']}: step {network['step_ms']:.2f} ms")
    for row in network["table"]:
        print(
            f"{row['window']!s:>14} {row['batch_share']:5.0%} grown {row['grown']:.1%} active {row['active']:.1%}",
            end="",
        )
        print(f" {row['interval_ms']:8.1f} ms an interval, {row['interval_cost']:.1%}" if "interval_ms" in row else "")


def integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    description, _, usage = (__doc__ or "").partition("\n\n    ")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default="lenet300,cifar10-conv", type=lambda text: text.split(","))
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--seeds", type=integers, default=(0, 1))
    parser.add_argument("--epochs", type=int, default=10, help="length of the schedule (default 10)")
    parser.add_argument("--updates", type=integers, default=(1, 2, 4, 6), help="updates to measure, by epoch")
    parser.add_argument("--cost-steps", type=int, default=200, help="timed steps (default 200)")
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "window_overlap.json")
    chosen = parser.parse_args()
    if max(chosen.updates) >= chosen.epochs:
        parser.error(f"--updates {max(chosen.updates)}: the last epoch has no update, so give less than --epochs")
    torch.set_num_threads(1)  # whose processor time says something on a busy machine
    protocol = make_settings("lenet300-mnist").recipe
    content: dict[str, Any] = {
        "command": f"python benchmarks/window_overlap.py --networks {','.join(chosen.networks)} --density "
        f"{chosen.density} --seeds {','.join(map(str, chosen.seeds))} --epochs {chosen.epochs} --updates "
        f"{','.join(map(str, chosen.updates))} --cost-steps {chosen.cost_steps}",
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "threads": 1,
        "mean_of": f"{len(chosen.seeds)} seeds, updates after epoch {', '.join(map(str, chosen.updates))}",
        "networks": [],
    }
    for name in chosen.networks:
        data = NETWORKS[name][1](data_root(), 0, protocol.validation_fraction).train
        plan = Plan(name, chosen.density, chosen.epochs, chosen.updates, protocol, data)
        content["networks"].append(measured(plan, chosen.seeds, chosen.cost_steps))
        shown(content["networks"][-1])
        written(chosen.json, content)


if __name__ == "__main__":
    main()
