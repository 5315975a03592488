"""Cost of masked storage: the training step beside the plain dense step of the same loop, and a topology update.

All networks are trained by the recipe's own loop, step by step in turn in one process, after a warm-up; times are
medians.
Writes results/masked_overhead.json.

    python benchmarks/masked_overhead.py
    python benchmarks/masked_overhead.py --recipe lenet5-mnist --steps 300 --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from statistics import median

import torch

from regrow.io.atomic import write_atomically
from regrow.lab.data.datasets import data_root
from regrow.lab.recipes.settings import make_settings
from regrow.lab.training.session import Session, make_session

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 30


def timed(action) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def measure(recipe: str, density: float, steps: int, updates: int) -> dict[str, float]:
    """Medians in milliseconds, and their ratio."""
    settings = {
        "dense": make_settings(recipe, method="dense"),
        "static": make_settings(recipe, method="static", density=density, storage="masked"),
        "sparse-momentum": make_settings(recipe, method="sparse-momentum", density=density, storage="masked"),
    }
    sessions = {method: make_session(chosen, data_root()) for method, chosen in settings.items()}
    seconds: dict[str, list[float]] = {method: [] for method in sessions}
    generator = torch.Generator().manual_seed(0)
    size = next(iter(sessions.values())).settings.recipe.batch_size
    for step in range(WARM_UP + steps):
        index = torch.randint(len(sessions["dense"].data.train.y), (size,), generator=generator)
        for method, session in sessions.items():
            spent = timed(lambda session=session, index=index: session.step(index))
            if step >= WARM_UP:
                seconds[method].append(spent)
    milliseconds = {f"{method}_ms": 1e3 * median(times) for method, times in seconds.items()}
    return {
        **milliseconds,
        "static_ratio": milliseconds["static_ms"] / milliseconds["dense_ms"],
        "sparse_momentum_ratio": milliseconds["sparse-momentum_ms"] / milliseconds["dense_ms"],
        "update_ms": 1e3 * median(update_times(sessions["sparse-momentum"], updates, size, generator)),
    }


def update_times(session: Session, updates: int, size: int, generator: torch.Generator) -> list[float]:
    """Seconds of topology updates, a few steps apart."""
    times = []
    for _ in range(updates):
        for _ in range(3):
            session.step(torch.randint(len(session.data.train.y), (size,), generator=generator))
        times.append(timed(session.updater.update))
    return times


def main() -> None:
    description, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="lenet300-mnist")
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--steps", type=int, default=1000, help="timed steps of each network (default 1000)")
    parser.add_argument("--updates", type=int, default=30, help="timed topology updates (default 30)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "masked_overhead.json")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    row = measure(chosen.recipe, chosen.density, chosen.steps, chosen.updates)
    content = {
        "command": f"python benchmarks/masked_overhead.py --recipe {chosen.recipe} --density {chosen.density} "
        f"--steps {chosen.steps} --updates {chosen.updates} --threads {chosen.threads}",
        "recipe": chosen.recipe,
        "density": chosen.density,
        **row,
        "threads": chosen.threads,
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "malloc": {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")},
    }
    with write_atomically(chosen.json) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    print(
        f"step: dense {row['dense_ms']:.2f} ms, static {row['static_ms']:.2f} ms ({row['static_ratio']:.2f}x), ", end=""
    )
    print(f"sparse momentum {row['sparse-momentum_ms']:.2f} ms ({row['sparse_momentum_ratio']:.2f}x)")
    print(f"topology update: {row['update_ms']:.2f} ms")


if __name__ == "__main__":
    main()
