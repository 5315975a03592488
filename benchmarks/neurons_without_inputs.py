"""Gradients of the inactive weights of neurons that have no active weight, beside those of other neurons.

Before a batch norm such a neuron is constant, so its variance is 0, and the batch norm multiplies whatever gradient
comes back by 1/sqrt(eps), 316 at torch's eps of 1e-5. Growth by momentum or gradient then sees nothing else. First
convolutions have them from the start: a filter of VGG16-D has 27 positions, so that at 5 % every fourth is empty.

One batch of CIFAR-10 on the network as it is initialised; writes results/neurons_without_inputs.json.

    python benchmarks/neurons_without_inputs.py
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

import regrow
from regrow.io.atomic import write_atomically
from regrow.lab import models
from regrow.lab.data.datasets import cifar10, data_root

ROOT = Path(__file__).resolve().parents[1]
GROWN = 0.2
"""Fraction of the active weights that an update with this prune rate replaces."""


def arguments() -> argparse.Namespace:
    description, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["vgg16-d-half"], metavar="NAME")
    parser.add_argument("--layer", default="conv1_1", help="layer to measure (default conv1_1)")
    parser.add_argument("--densities", type=float, nargs="+", default=[0.02, 0.05, 0.1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=128, help="batch size (default 128)")
    parser.add_argument("--data-dir", help="folder of the data sets")
    parser.add_argument("--json", type=Path, default=ROOT / "results/neurons_without_inputs.json", metavar="FILE")
    return parser.parse_args()


def measure(name: str, layer: str, density: float, seed: int, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
    """Measures one random topology: neurons, and gradients of inactive weights by whether their neuron has inputs."""
    torch.manual_seed(seed)
    sparse = regrow.sparsify(models.build(name), density=density, storage="masked", seed=seed)
    missing = ~regrow.sparse_weights(sparse)[f"{layer}.weight"].mask
    model = regrow.densify(sparse)  # zeros where it was sparse, so that every weight has a gradient
    F.cross_entropy(model(x), y).backward()
    gradient = model.get_submodule(layer).weight.grad.abs()
    empty = missing.flatten(1).all(1)
    of_empty = missing & empty.view(-1, *[1] * (missing.dim() - 1))
    grown = round(GROWN * int((~missing).sum()))
    chosen = torch.where(missing, gradient, -1).flatten().topk(grown).indices
    return {
        "model": name,
        "layer": layer,
        "density": density,
        "seed": seed,
        "neurons": len(empty),
        "without_inputs": int(empty.sum()),
        "gradient_there": gradient[of_empty].mean().item() if empty.any() else None,
        "gradient_elsewhere": gradient[missing & ~of_empty].mean().item(),
        "grown": grown,
        "grown_there": int(of_empty.flatten()[chosen].sum()),
    }


def main() -> None:
    chosen = arguments()
    x, y = cifar10(data_root(chosen.data_dir), 0, 0.1).train.batch(torch.arange(chosen.images))
    rows = [
        measure(name, chosen.layer, density, seed, x, y)
        for name in chosen.models
        for density in chosen.densities
        for seed in chosen.seeds
    ]
    for row in rows:
        print(row)
    command = shlex.join(["python", "benchmarks/neurons_without_inputs.py", *sys.argv[1:]])
    with write_atomically(chosen.json) as temporary:
        temporary.write_text(json.dumps({"command": command, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
