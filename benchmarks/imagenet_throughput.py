"""Images a second of ResNet-50 at 224x224: training steps, dense and sparse, and what one process reads from files.

Steps are taken in turn in one process, on a batch of random images, sparse ones at uniform density. Files are
photographs of imagenette224 enlarged to 500x375, the usual size in ImageNet, read as the recipe's workers do. Nothing
else may run on the machine. Writes results/imagenet_throughput.json, from which docs/imagenet.md has its hours.

    python benchmarks/imagenet_throughput.py --threads 2
    python benchmarks/imagenet_throughput.py --threads 16 --batch 64 --densities 0.1 --seconds 60
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch

import regrow
from regrow import ops
from regrow.io.atomic import write_atomically
from regrow.lab import get_recipe, models
from regrow.lab.bench.step import TrainingStep
from regrow.lab.bench.timing import noise, times_in_turn, working
from regrow.lab.data.datasets import data_root
from regrow.lab.data.images import ImageFiles
from regrow.lab.machine import computes_bf16, processor

ROOT = Path(__file__).resolve().parents[1]
RECIPE = get_recipe("resnet50-imagenet")
SIZE, PHOTOGRAPH = 224, (500, 375)
DENSE = {"dense": False} | ({"dense, bfloat16": True} if computes_bf16() else {})


def step(batch: int, density: float | None = None, bf16: bool = False) -> TrainingStep:
    """A training step, sparse where a density is given."""
    torch.manual_seed(0)
    model = models.build(RECIPE.model, RECIPE.classes).to(memory_format=torch.channels_last)
    if density is not None:
        model = regrow.sparsify(model, density, storage="compressed", seed=0)
    x = torch.randn(batch, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    return TrainingStep(model, model.parameters(), x, torch.randint(RECIPE.classes, (batch,)), bf16)


def measure_steps(batch: int, densities: list[float], seconds: float) -> list[dict[str, Any]]:
    """Median step and images a second of every contestant."""
    contestants: dict[str, Callable[[], None]] = {kind: step(batch, bf16=bf16) for kind, bf16 in DENSE.items()}
    sparse = {f"sparse, {density:.0%}": density for density in densities}
    contestants |= {kind: step(batch, density) for kind, density in sparse.items()}
    good, failed = working(contestants)
    print(f"{len(good)} contestants, about {seconds * len(good) / 60:.0f} minutes", flush=True)
    for kind, reason in failed.items():
        print(f"{kind}: {reason}", flush=True)
    rows = []
    for kind, times in times_in_turn(good, seconds).items():
        median = statistics.median(times)
        row = {"kind": kind, "density": sparse.get(kind, 1.0), "batch": batch, "step_ms": median}
        rows.append({**row, "images_per_second": 1e3 * batch / median, "noise": noise(times)})
        print(f"{kind}: {median:.0f} ms, {rows[-1]['images_per_second']:.1f} images a second", flush=True)
    return rows


def measure_reading(seconds: float, number: int = 64) -> dict[str, Any]:
    """Images a second that one process decodes, crops and flips."""
    from PIL import Image

    sources = sorted((data_root() / "imagenette224" / "train").glob("*/*"))[:: 2500 // number][:number]
    with tempfile.TemporaryDirectory() as folder:
        for place, source in enumerate(sources):
            photograph = Image.open(source).convert("RGB").resize(PHOTOGRAPH, Image.Resampling.BICUBIC)
            photograph.save(Path(folder) / f"{place}.jpeg", quality=95)
        sizes = [file.stat().st_size for file in Path(folder).iterdir()]
        images = ImageFiles(
            Path(folder), numpy.array([f"{place}.jpeg".encode() for place in range(len(sources))]), SIZE
        )
        index = torch.arange(len(sources))
        read, began = 0, time.perf_counter()
        while not read or time.perf_counter() - began < seconds:
            read += len(images[index, index].kept)
        speed = read / (time.perf_counter() - began)
    print(f"reading: {speed:.0f} images a second in one process", flush=True)
    return {"images_per_second": speed, "size": PHOTOGRAPH, "mean_kilobytes": statistics.mean(sizes) / 1e3}


def arguments() -> argparse.Namespace:
    description, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--densities", type=float, nargs="+", default=[0.1, 0.2, 0.3])
    parser.add_argument("--batch", type=int, default=32, help="batch size (default 32)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds of each contestant (default 60)")
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "imagenet_throughput.json")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    ops.keep_pages()
    info = ops.info()
    content = {
        "command": shlex.join(["python", "benchmarks/imagenet_throughput.py", *sys.argv[1:]]),
        "processor": processor(),
        "isa": info["isa"],
        "threads": chosen.threads,
        "torch": info["torch"],
        "epochs": RECIPE.epochs,
        "reading": measure_reading(min(chosen.seconds, 10.0)),
        "steps": measure_steps(chosen.batch, chosen.densities, chosen.seconds),
    }
    with write_atomically(chosen.json) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    print(f"in {chosen.json}; python benchmarks/tables.py puts it into docs/imagenet.md")


if __name__ == "__main__":
    main()
