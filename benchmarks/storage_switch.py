"""GraNet from a density of 0.5 to 0.05: masked to the end, and compressed once each layer has fallen to 0.3.

Both train the same batches in turn, step by step, beside a network that is compressed at 0.05 from its first step.
Times are processor time of one thread, the median over the steps of an epoch without those with a topology update.

    python benchmarks/storage_switch.py
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

import regrow
from regrow import ops
from regrow.io.atomic import write_atomically
from regrow.lab.data.datasets import data_root
from regrow.lab.recipes.recipe import learning_rate
from regrow.lab.recipes.settings import make_settings
from regrow.lab.training.session import Session, evaluate, make_session

ROOT = Path(__file__).resolve().parents[1]
START = ["initial_density=0.5"]
ARMS: dict[str, dict[str, Any]] = {
    "masked to the end": dict(method="granet", storage="masked", overrides=START),
    "compressed below 0.3": dict(method="granet", storage="compressed", overrides=START),
    "compressed at 0.05": dict(method="static", storage="compressed"),
}


def arguments() -> argparse.Namespace:
    description, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="lenet300-mnist", metavar="NAME")
    parser.add_argument("--epochs", type=int, default=4, metavar="N")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--data-dir", help="folder of the data sets")
    parser.add_argument("--json", type=Path, default=ROOT / "results/storage_switch.json", metavar="FILE")
    return parser.parse_args()


def step(session: Session, number: int, drawn: Any) -> tuple[float, bool]:
    """Takes one optimizer step, and the update that may follow; returns its milliseconds, and whether one did."""
    every, total = session.update_every, session.total_steps
    for group in session.optimizer.param_groups:
        group["lr"] = learning_rate(session.settings.recipe, number, total)
    began = time.process_time()
    session.step(*drawn)
    milliseconds = 1000 * (time.process_time() - began)
    due = (number + 1) % every == 0 and number + 1 < total
    if due and session.updater:
        session.updater.update()
        session.updater.expect_update(every)
    return milliseconds, due


def measure(recipe: str, epochs: int, seed: int, root: Path) -> list[dict[str, Any]]:
    """Trains all arms with one seed, and returns a row for each arm and epoch."""
    overrides = [f"epochs={epochs}"]
    sessions = {
        arm: make_session(
            make_settings(recipe, seed=seed, density=0.05, **how | {"overrides": how.get("overrides", []) + overrides}),
            root,
        )
        for arm, how in ARMS.items()
    }
    for session in sessions.values():
        if session.updater:
            session.updater.expect_update(session.update_every)
    rows, number = [], 0
    train = sessions["masked to the end"].data.train
    for epoch in range(epochs):
        times: dict[str, list[float]] = {arm: [] for arm in sessions}
        start = {arm: session.active / session.prunable for arm, session in sessions.items()}
        for drawn in train.epoch_batches(seed, epoch, sessions["masked to the end"].settings.recipe.batch_size):
            for arm, session in sessions.items():
                milliseconds, updated = step(session, number, drawn)
                if not updated:
                    times[arm].append(milliseconds)
            number += 1
        rows += [
            {
                "arm": arm,
                "seed": seed,
                "epoch": epoch + 1,
                "density": [start[arm], session.active / session.prunable],
                "storage": [weight.storage for weight in regrow.sparse_weights(session.model).values()],
                "step_ms": median(times[arm]),
                "validation_error": evaluate(session, session.data.validation).error,
                "test_error": evaluate(session, session.data.test).error if epoch == epochs - 1 else None,
            }
            for arm, session in sessions.items()
        ]
        print(*rows[-len(sessions) :], sep="\n", flush=True)
    return rows


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(1)
    ops.keep_pages()
    root = data_root(chosen.data_dir)
    rows = [row for seed in range(chosen.seeds) for row in measure(chosen.recipe, chosen.epochs, seed, root)]
    command = shlex.join(["python", "benchmarks/storage_switch.py", *sys.argv[1:]])
    about = {"isa": ops.isa(), "torch": str(torch.__version__)}
    with write_atomically(chosen.json) as temporary:
        temporary.write_text(json.dumps({"command": command, **about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
