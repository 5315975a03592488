"""Growth by a window, by all gradients, by those of a sample, by the topology, or at random: error, and cost.

Short trainings of LeNet-300-100 on MNIST, compressed, weights rescaled by layer, cosine, SGD with Nesterov momentum;
validation errors of 6,000 images that are held out, the test set is not looked at. Then what an update adds to a step
of a Linear layer of n by n positions with always the same number of weights.

    nice python benchmarks/growth_rules.py --json results/growth_rules.json
"""

import argparse
import itertools
import json
import shlex
import sys
import time
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import torch
from torch import nn

import regrow
from regrow.io.atomic import write_atomically
from regrow.lab import models
from regrow.lab.data import datasets
from regrow.lab.machine import processor

ARMS: dict[str, tuple[type[regrow.Updater], dict[str, Any]]] = {
    "sparse-momentum": (regrow.SparseMomentum, {}),
    "sparse-momentum growth=gradient": (regrow.SparseMomentum, {"growth": "gradient"}),
    "sparse-momentum growth=sampled-gradient": (regrow.SparseMomentum, {"growth": "sampled-gradient"}),
    "rigl": (regrow.RigL, {}),
    "set": (regrow.SET, {}),
    "gse": (regrow.GSE, {}),
    "gse prune_rate=0.3": (regrow.GSE, {"prune_rate": 0.3}),
    "gse prune_rate=0.3 sampling=uniform": (regrow.GSE, {"prune_rate": 0.3, "sampling": "uniform"}),
    "gse prune_rate=0.3 candidates=4": (regrow.GSE, {"prune_rate": 0.3, "candidates": 4.0}),
    "cht": (regrow.CHT, {}),
    "chts": (regrow.CHTs, {}),
    "chts receptive_field=0.25": (regrow.CHTs, {}),
}
BATCH, RATE, UPDATE_EVERY = 100, 0.1, 180
ACTIVE, EXAMPLES = 100_000, 64
COSTLY = {"rigl": (regrow.RigL, {}), "gse": (regrow.GSE, {"prune_rate": 0.3}), "set": (regrow.SET, {})}


def train(arm: str, density: float, epochs: int, seed: int) -> float:
    """The validation error in percent."""
    data = datasets.mnist(datasets.data_root(None), seed, 0.1)
    torch.manual_seed(seed)
    model = models.build("lenet-300-100", 10)
    start: dict[str, Any] = {"density": density, "seed": seed}
    if "receptive_field" in arm:
        start = {"density": None, "init": regrow.receptive_fields(model, density, randomness=0.25, seed=seed)}
    model = regrow.sparsify(model, storage="compressed", rescale=True, **start)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * (len(data.train.y) // BATCH)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    kind, settings = ARMS[arm]
    kind(model, optimizer, total_steps=steps, update_every=UPDATE_EVERY, seed=seed, **settings)
    order = torch.Generator().manual_seed(seed)
    x, y = data.train.batch(torch.arange(len(data.train.y)))
    for _ in range(epochs):
        for index in torch.randperm(len(y), generator=order).split(BATCH)[: steps // epochs]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
            cosine.step()
    model.eval()
    x, y = data.validation.batch(torch.arange(len(data.validation.y)))
    with torch.no_grad():
        return 100 * float((model(x).argmax(1) != y).double().mean())


def cost(method: str, width: int, repeats: int) -> float:
    """Milliseconds that an update adds to a step."""
    kind, settings = COSTLY[method]
    layer = nn.Linear(width, width, bias=False, device="meta")
    model = regrow.sparsify(nn.Sequential(layer), ACTIVE / width**2, storage="compressed", seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    updater = kind(model, optimizer, total_steps=1000, update_every=None, seed=0, **settings)
    x = torch.randn(EXAMPLES, width, generator=torch.Generator().manual_seed(0))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for updates in [False, True] * (repeats + 1):
        updater.expect_update(1 if updates else 100)
        start = time.perf_counter()
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        if updates:
            updater.update()
        seconds[updates].append(time.perf_counter() - start)
    return 1000 * (median(seconds[True][1:]) - median(seconds[False][1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--densities", default="0.01,0.05")
    parser.add_argument("--widths", default="1024,2048,4096,8192,65536")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="the result file, rewritten after every row")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    about = {"command": shlex.join(["python", *sys.argv]), "processor": processor(), "threads": 1}
    result: dict[str, Any] = {**about, "epochs": chosen.epochs, "rows": [], "costs": []}
    densities = [float(word) for word in chosen.densities.split(",")]
    for arm, density in itertools.product(ARMS, densities):
        errors = [train(arm, density, chosen.epochs, seed) for seed in range(chosen.seeds)]
        error = stdev(errors) / len(errors) ** 0.5 if len(errors) > 1 else None
        result["rows"].append({"method": arm, "density": density, "errors": errors, "mean": fmean(errors), "se": error})
        _show(result, chosen.json, result["rows"][-1])
    for method, width in itertools.product(COSTLY, map(int, chosen.widths.split(","))):
        if method == "rigl" and width > 8192:
            continue  # minutes
        row = {"method": method, "width": width, "active": ACTIVE, "ms": cost(method, width, chosen.repeats)}
        result["costs"].append(row)
        _show(result, chosen.json, row)


def _show(result: dict[str, Any], file: Path | None, row: dict[str, Any]) -> None:
    print(*row.values(), flush=True)
    if file:
        with write_atomically(file) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
