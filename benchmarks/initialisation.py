"""Validation error by the scale of the initial active weights: as in the dense layer, by layer, and by neuron.

A layer of density d whose weights keep the dense variance passes on d of the signal. The rules are those of
`sparsify(rescale=...)`: "dense" is False. Short trainings on MNIST, cosine, SGD with Nesterov momentum; validation
errors of 6,000 images that are held out, the test set is not looked at.

    python benchmarks/initialisation.py --json results/initialisation.json
"""

import argparse
import itertools
import json
import shlex
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch import nn

import regrow
from regrow.io.atomic import write_atomically
from regrow.lab import models
from regrow.lab.data import datasets
from regrow.lab.machine import processor

NETWORKS = ("lenet-300-100", "lenet-300-100-bn", "lenet-5-caffe")
METHODS = ("static", "set", "rigl", "sparse-momentum")
RULES = ("dense", "layer", "neuron")
BATCH, RATE, UPDATE_EVERY = 100, 0.1, 180
PARTS = {"static": regrow.Static, "set": regrow.SET, "rigl": regrow.RigL, "sparse-momentum": regrow.SparseMomentum}


def train(network: str, method: str, density: float, rule: str, epochs: int, seed: int) -> float:
    """The validation error in percent."""
    torch.set_num_threads(1)
    data = datasets.mnist(datasets.data_root(None), seed, 0.1)
    torch.manual_seed(seed)
    model = models.build(network, 10)
    if method != "dense":
        rescale = False if rule == "dense" else rule
        model = regrow.sparsify(model, density, storage="compressed", seed=seed, rescale=rescale)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * (len(data.train.y) // BATCH)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    if method == "static":
        regrow.Static(model, optimizer)
    elif method != "dense":
        more = {} if method == "rigl" else {"seed": seed}
        PARTS[method](model, optimizer, total_steps=steps, update_every=UPDATE_EVERY, **more)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--densities", default="0.01,0.05,0.1")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="the result file, rewritten after every row")
    chosen = parser.parse_args()
    densities = [float(word) for word in chosen.densities.split(",")]
    networks = chosen.networks.split(",")
    cases = [(network, "dense", 1.0, "dense") for network in networks]
    cases += list(itertools.product(networks, chosen.methods.split(","), densities, RULES))
    rows = []
    with ProcessPoolExecutor(chosen.jobs, get_context("spawn")) as pool:
        runs = {
            case: [pool.submit(train, *case, chosen.epochs, seed) for seed in range(chosen.seeds)] for case in cases
        }
        for (network, method, density, rule), of_seeds in runs.items():
            errors = [run.result() for run in of_seeds]
            mean, error = fmean(errors), stdev(errors) / len(errors) ** 0.5 if len(errors) > 1 else None
            rows.append({"network": network, "method": method, "density": density, "rule": rule, "errors": errors})
            print(network, method, density, rule, f"{mean:.2f}", f"± {error:.2f}" if error else "", flush=True)
            if chosen.json:
                about = {
                    "command": shlex.join(["python", *sys.argv]),
                    "processor": processor(),
                    "epochs": chosen.epochs,
                }
                with write_atomically(chosen.json) as temporary:
                    temporary.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
