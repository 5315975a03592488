"""Memory and step time of the recipe wide-mlp as its hidden layers grow wider than any dense network could be.

Every width has the same number of connections a unit, by a density of 32 / (784 + width), and is measured in a fresh
process: the making of the network, ordinary steps, steps of the window, topology updates, the first step after one
(which prepares the kernels anew), and the peak of resident memory. Up to `--dense-up-to` the dense network is measured
beside it. Wall clock, medians: run it on a quiet machine. MNIST is looked for where `regrow train` does. Writes
results/wide_mlp.json, anew after each width.

    python benchmarks/wide_mlp.py
    python benchmarks/wide_mlp.py --widths 1000,4000 --dense-up-to 4000 --steps 5 --json /tmp/try.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import regrow
from regrow.io.atomic import write_atomically
from regrow.lab.data.datasets import data_root
from regrow.lab.machine import peak_memory_mib, processor
from regrow.lab.recipes.settings import make_settings
from regrow.lab.training.session import Session, make_session
from regrow.ops import isa, keep_pages

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = (1_000, 4_000, 16_000, 64_000, 250_000)
UPDATES = 2


def seconds_of(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def steps_of(session: Session) -> Callable[[], float]:
    """A function that takes one training step on the next random batch; seconds of it."""
    generator = torch.Generator().manual_seed(0)
    size = session.settings.recipe.batch_size

    def step() -> float:
        index = torch.randint(len(session.data.train), (size,), generator=generator)
        return seconds_of(lambda: session.step(index))

    return step


def measured(width: int, method: str, steps: int) -> dict[str, Any]:
    """Measures in this process."""
    keep_pages()
    density = None if method == "dense" else min(1.0, 32 / (784 + width))
    settings = make_settings("wide-mlp", method=method, density=density, overrides=[f"width={width}"])
    start = time.perf_counter()
    session = make_session(settings, data_root(None))
    row: dict[str, Any] = {"made_s": time.perf_counter() - start}
    step = steps_of(session)
    updater = session.updater
    if updater:
        updater.expect_update(steps + 3 + settings.recipe.option("window"))
    for _ in range(3):
        step()
    row["step_ms"] = 1e3 * statistics.median(step() for _ in range(steps))
    if updater:
        row |= updates(settings.recipe.option("window"), updater, step)
        row["active"] = {name: weight.active for name, weight in regrow.sparse_weights(session.model).items()}
    return row | {"positions": session.prunable, "peak_mib": peak_memory_mib()}


def updates(window: int, updater: Any, step: Callable[[], float]) -> dict[str, float]:
    """Steps within the window, updates, and the steps that follow them; medians."""
    within, updating, after = [], [], []
    for _ in range(UPDATES):
        within += [step() for _ in range(window)]
        updating.append(seconds_of(updater.update))
        updater.expect_update(window + 1)
        after.append(step())
    return {
        "window_step_ms": 1e3 * statistics.median(within),
        "update_s": statistics.median(updating),
        "step_after_update_ms": 1e3 * statistics.median(after),
    }


def in_a_process(width: int, method: str, chosen: argparse.Namespace) -> dict[str, Any]:
    options = {"--steps": chosen.steps, "--threads": chosen.threads, "--measure": f"{width},{method}"}
    command = [sys.executable, __file__, *(str(word) for option in options.items() for word in option)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def write(chosen: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    content = {
        "command": f"python benchmarks/wide_mlp.py --widths {','.join(map(str, chosen.widths))} "
        f"--dense-up-to {chosen.dense_up_to} --steps {chosen.steps} --threads {chosen.threads}",
        "processor": processor(),
        "isa": isa(),
        "torch": str(torch.__version__),
        "rows": rows,
    }
    with write_atomically(chosen.json) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    description, _, usage = (__doc__ or "").partition("\n\n    ")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=lambda text: [int(word) for word in text.split(",")], default=WIDTHS)
    parser.add_argument("--dense-up-to", type=int, default=4_000, help="widest dense network to measure")
    parser.add_argument("--steps", type=int, default=10, help="number of ordinary steps of each width")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "wide_mlp.json")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.measure:
        width, method = chosen.measure.split(",")
        print(json.dumps(measured(int(width), method, chosen.steps)))
        return
    rows = []
    for number, width in enumerate(chosen.widths, 1):
        print(f"width {width:,}, {number} of {len(chosen.widths)}", file=sys.stderr)
        row = {"width": width, **in_a_process(width, "sparse-momentum", chosen)}
        row["dense"] = in_a_process(width, "dense", chosen) if width <= chosen.dense_up_to else None
        rows.append(row)
        write(chosen, rows)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
