"""Cost of data: making an augmented CIFAR-10 batch beside the whole sparse training step that it feeds.

The topology stays as it is, so that no step is longer for seeing inactive weights.

Both in turn in one process, medians, on batches of an epoch in its order. Writes results/data_speed.json.

    python benchmarks/data_speed.py
    python benchmarks/data_speed.py --recipes alexnet-s-cifar10 --density 0.01 --threads 2 --clock wall
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from regrow import ops
from regrow.lab.bench.common import write_rows
from regrow.lab.bench.timing import CLOCKS, noise, times_in_turn, working
from regrow.lab.data.datasets import data_root
from regrow.lab.machine import processor
from regrow.lab.recipes.settings import make_settings
from regrow.lab.training.session import Session, make_session

ROOT = Path(__file__).resolve().parents[1]


def batches(session: Session) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The whole batches of epoch after epoch."""
    train, size = session.data.train, session.settings.recipe.batch_size
    for epoch in itertools.count():
        yield from (batch for batch in train.epoch_batches(0, epoch, size) if len(batch[0]) == size)


def measure(recipe: str, density: float, seconds: float, clock: str) -> dict[str, Any]:
    """Medians in milliseconds, and the share of the step that is data."""
    session = make_session(make_settings(recipe, method="static", density=density), data_root())
    drawn = batches(session)
    contestants, failed = working(
        {
            "batch": lambda: session.data.train.batch(*next(drawn)),
            "step": lambda: session.step(*next(drawn)),
        }
    )
    if failed:
        raise RuntimeError(f"{recipe}: {failed}")
    times = times_in_turn(contestants, seconds, clock, rounds=20)
    batch_ms, step_ms = median(times["batch"]), median(times["step"])
    return {
        "recipe": recipe,
        "density": density,
        "batch": session.settings.recipe.batch_size,
        "batch_ms": batch_ms,
        "step_ms": step_ms,
        "share": batch_ms / step_ms,
        "noise": {name: noise(values) for name, values in times.items()},
    }


def main() -> None:
    description, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ["alexnet-s-cifar10", "vgg16-d-half-cifar10", "vgg16-d-cifar10", "wrn-28-2-cifar10"]
    parser.add_argument("--recipes", nargs="+", default=default)
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of each measurement (default 10)")
    parser.add_argument("--clock", choices=list(CLOCKS), default="cpu", help="cpu suits a busy machine (default)")
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "data_speed.json")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    ops.keep_pages()
    info = ops.info()
    where = {"processor": processor(), "isa": info["isa"], "torch": info["torch"], "allocator": info["allocator"]}
    where |= {"threads": chosen.threads, "clock": chosen.clock}
    command = f"python benchmarks/data_speed.py --recipes {' '.join(chosen.recipes)} --density {chosen.density} "
    command += f"--threads {chosen.threads} --seconds {chosen.seconds:g} --clock {chosen.clock}"
    rows = []
    for recipe in chosen.recipes:
        row = measure(recipe, chosen.density, chosen.seconds, chosen.clock)
        print(f"{recipe}: data {row['batch_ms']:.2f} ms of {row['step_ms']:.1f} ms a step, {row['share']:.1%}")
        rows.append({**row, **where})
        write_rows(chosen.json, command, rows)


if __name__ == "__main__":
    main()
