"""A character GPT trained dense and sparse, in turn in one process: every step on the same batch, each with its clock.

Contestants are dense PyTorch, regrow with sparse momentum, and sparselab with its RigL where that package is installed
(pip install --no-deps sparselab). All have the network, the data order, the optimizer and the schedule of the recipe
gpt-shakespeare, and update their topology after the same steps. A contestant's seconds are those of its steps
and topology updates. The test set is looked at once, at the end.

    python benchmarks/gpt_shakespeare.py --epochs 6 --threads 2
    python benchmarks/gpt_shakespeare.py --epochs 1 --update-every 39 --threads 2
    python benchmarks/gpt_shakespeare.py --epochs 1 --densities 0.1 --threads 1
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from regrow import ops
from regrow.io.atomic import write_atomically
from regrow.lab.data.datasets import data_root
from regrow.lab.machine import processor
from regrow.lab.recipes.recipe import learning_rate
from regrow.lab.recipes.settings import make_settings
from regrow.lab.training.session import Session, evaluate, make_optimizer, make_session

ROOT = Path(__file__).resolve().parents[1]
RECIPE = "gpt-shakespeare"
PEER_DROP = 0.3
"""Share of active weights that sparselab's RigL exchanges, as in its examples."""


@dataclass
class Contestant:
    """A network under training, the seconds of each of its steps, and its curve."""

    name: str
    density: float
    session: Session
    after_step: Callable[[], None] = lambda: None
    update: Callable[[], None] = lambda: None
    steps: list[float] = field(default_factory=list)
    updates: list[float] = field(default_factory=list)
    curve: list[dict[str, float]] = field(default_factory=list)

    def step(self, index: Tensor, moves: Tensor | None, lr: float) -> None:
        began = time.perf_counter()
        for group in self.session.optimizer.param_groups:
            group["lr"] = lr
        self.session.step(index, moves)
        self.after_step()
        self.steps.append(time.perf_counter() - began)

    def update_topology(self) -> None:
        began = time.perf_counter()
        self.update()
        self.updates.append(time.perf_counter() - began)

    def end_epoch(self, epoch: int) -> None:
        validation = evaluate(self.session, self.session.data.validation)
        self.curve.append({"epoch": epoch, "validation_loss": validation.loss, "seconds": self.seconds})

    @property
    def seconds(self) -> float:
        return sum(self.steps) + sum(self.updates)

    def row(self, dense: Contestant) -> dict[str, Any]:
        """Ratios are of the dense contestant's time over this one's."""
        test = evaluate(self.session, self.session.data.test)
        return {
            "name": self.name,
            "density": self.density,
            "validation_loss": self.curve[-1]["validation_loss"],
            "test_loss": test.loss,
            "step_ms": 1e3 * median(self.steps),
            "step_ratio": median(dense.steps) / median(self.steps),
            "seconds": self.seconds,
            "ratio": dense.seconds / self.seconds,
            "steps": len(self.steps),
            "curve": self.curve,
        }


def interval(session: Session, chosen: argparse.Namespace) -> int:
    """Steps between topology updates."""
    return chosen.update_every or session.steps_per_epoch


def make_regrow(density: float, chosen: argparse.Namespace) -> Contestant:
    session = _session(chosen, density=density, storage="compressed")
    assert session.updater is not None
    updater, every = session.updater, interval(session, chosen)
    updater.expect_update(every)

    def update() -> None:
        updater.update()
        updater.expect_update(every)

    return Contestant(f"regrow {density:g}", density, session, update=update)


def make_peer(density: float, chosen: argparse.Namespace) -> Contestant | None:
    """The same network with sparselab's layers where the recipe is sparse; None where it is not installed."""
    try:
        import sparselab  # type: ignore[import-not-found]
    except ImportError:
        return None
    session = _session(chosen, method="dense")
    for block in session.model.blocks:  # type: ignore[union-attr]
        for parent, name in ((block.attention, "qkv"), (block.attention, "out"), (block, "up"), (block, "down")):
            old = getattr(parent, name)
            setattr(parent, name, sparselab.SparseLinear(old.in_features, old.out_features, sparsity=1 - density))
    session.optimizer = make_optimizer(session.model, session.settings)
    algorithm = sparselab.RigL(sparsity=1 - density, drop_fraction=PEER_DROP, update_freq=interval(session, chosen))
    session.model.apply(algorithm)
    return Contestant(f"sparselab {density:g}", density, session, after_step=algorithm.step)


def _session(chosen: argparse.Namespace, **how: Any) -> Session:
    settings = make_settings(RECIPE, seed=chosen.seed, overrides=[f"epochs={chosen.epochs}"], **how)
    return make_session(settings, data_root(chosen.data_dir))


def make_contestants(chosen: argparse.Namespace) -> list[Contestant]:
    dense = Contestant("dense", 1.0, _session(chosen, method="dense"))
    sparse = [make(density, chosen) for make in (make_regrow, make_peer) for density in chosen.densities]
    return [dense, *(one for one in sparse if one)]


def race(contestants: list[Contestant], every: int) -> None:
    """Every step of every contestant, in turn."""
    session = contestants[0].session
    recipe, seed = session.settings.recipe, session.settings.seed
    step = 0
    for epoch in range(recipe.epochs):
        batches = list(session.data.train.epoch_batches(seed, epoch, recipe.batch_size))
        for index, moves in track(batches, description=f"epoch {epoch + 1} of {recipe.epochs}"):
            for one in contestants:
                one.step(index, moves, learning_rate(recipe, step, session.total_steps))
            step += 1
            if step % every == 0 and step < session.total_steps:
                for one in contestants:
                    one.update_topology()
        for one in contestants:
            one.end_epoch(epoch + 1)
        print("  ".join(f"{one.name}: {one.curve[-1]['validation_loss']:.4f}" for one in contestants), flush=True)


def arguments() -> argparse.Namespace:
    description, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--densities", type=float, nargs="+", default=[0.1, 0.2])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument(
        "--update-every", type=int, metavar="STEPS", help="steps between topology updates; default: an epoch"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data-dir", help="folder of the data sets")
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "gpt_shakespeare.json", metavar="FILE")
    return parser.parse_args()


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'':<16}{'validation loss':>16}{'test loss':>11}{'ms a step':>11}{'ratio':>7}{'seconds':>9}{'ratio':>7}")
    for row in rows:
        print(
            f"{row['name']:<16}{row['validation_loss']:>16.4f}{row['test_loss']:>11.4f}{row['step_ms']:>11.1f}"
            f"{row['step_ratio']:>7.2f}{row['seconds']:>9.0f}{row['ratio']:>7.2f}"
        )


def main() -> int:
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    ops.keep_pages()
    contestants = make_contestants(chosen)
    race(contestants, interval(contestants[0].session, chosen))
    rows = [one.row(contestants[0]) for one in contestants]
    content = {
        "command": shlex.join(["python", os.path.relpath(__file__, ROOT), *sys.argv[1:]]),
        "threads": torch.get_num_threads(),
        "processor": processor(),
        **{key: ops.info()[key] for key in ("isa", "torch", "allocator")},
        "rows": rows,
    }
    with write_atomically(chosen.json) as temporary:
        Path(temporary).write_text(json.dumps(content, indent=1) + "\n")
    show(rows)
    print(f"results in {chosen.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
