"""Size of a trained network in every format of `regrow export`, and how far its outputs lie from the network's own.

Trains a recipe on CIFAR-10, exports its checkpoint, reads each file back as docs/export.md says, and runs it on the
test set. A network whose outputs hardly depend on the image is refused, since there all formats agree whatever they do:
that happens in evaluation where batch norms have seen fewer than about a hundred batches.

python benchmarks/export_formats.py --recipe alexnet-s-cifar10 --density 0.05 --epochs 20
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import regrow
from regrow.export.onnx import onnx_session
from regrow.io.atomic import write_atomically
from regrow.lab import make_settings, models, train
from regrow.lab.cli.export import FORMATS
from regrow.lab.data.datasets import data_root
from regrow.lab.training.progress import terminal_reporter
from regrow.lab.training.restored import load_network

LEAST_SPREAD = 0.01
"""Standard deviation of an output over images, of the largest output."""

RESULT = Path(__file__).resolve().parents[1] / "results" / "export.json"


def with_state(file: Path, plain: nn.Module) -> nn.Module:
    plain.load_state_dict({name: value.to_dense() for name, value in torch.load(file).items()})
    return plain.eval()


def onnx(file: Path, plain: nn.Module) -> Callable[[Tensor], Tensor]:
    session = onnx_session(file, torch.get_num_threads())
    return lambda x: torch.from_numpy(session(x)[0])


READERS: dict[str, Callable[[Path, nn.Module], Callable[[Tensor], Tensor]]] = {
    "dense": with_state,
    "compact": regrow.export.load_compact,
    "safetensors": lambda file, plain: regrow.load(file, plain).eval(),
    "onnx": onnx,
    "torch-sparse": with_state,
}


@torch.no_grad()
def outputs(network: Callable[[Tensor], Tensor], batches: list[Tensor]) -> Tensor:
    return torch.cat([network(x) for x in batches])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="alexnet-s-cifar10")
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--images", default="none", help="number of training images; none: all")
    parser.add_argument("--test-images", type=int, default=10_000)
    asked = parser.parse_args()
    overrides = [f"epochs={asked.epochs}", f"images={asked.images}", f"batch_size={asked.batch_size}"]
    settings = make_settings(asked.recipe, density=asked.density, overrides=overrides)
    with tempfile.TemporaryDirectory() as folder:
        train(settings, out=Path(folder) / "run", reporter=terminal_reporter())
        _, model, _ = load_network(Path(folder) / "run")
        data = settings.recipe.data(data_root(), settings.seed, settings.recipe.validation_fraction)
        batches = [x for x, _ in data.test.first(asked.test_images).batches(500)]
        wanted = outputs(model.eval(), batches)
        spread = float(wanted.std(0).max() / wanted.abs().max())
        if spread < LEAST_SPREAD:
            sys.exit(f"the outputs hardly depend on the image (spread {spread:.1e}); train longer")
        rows = []
        for name, write in FORMATS.items():
            file = Path(folder) / name
            write(file, model, models.example_input(settings.recipe.model))
            found = outputs(READERS[name](file, models.build(settings.recipe.model)), batches)
            distance = float((found - wanted).abs().max() / wanted.abs().max())
            rows.append({"format": name, "bytes": file.stat().st_size, "max_rel_difference": distance})
            print(rows[-1], flush=True)
    result = {
        "command": shlex.join(["python", "benchmarks/export_formats.py", *sys.argv[1:]]),
        "recipe": asked.recipe,
        "active": regrow.summary(model).active,
        "density": regrow.summary(model).density,
        "test_images": len(wanted),
        "spread": spread,
        "rows": rows,
    }
    with write_atomically(RESULT) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
