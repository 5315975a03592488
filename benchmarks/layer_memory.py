"""Memory of one Linear layer under training: parameter, gradient, SGD momentum, and in compressed storage all indices.

Each case is measured in a fresh process: by count, and as growth of its resident memory, over a few steps with a small
batch. No window is open. Writes results/layer_memory.json.

    python benchmarks/layer_memory.py
    python benchmarks/layer_memory.py --features 1024 --densities 0.05 --json /tmp/try.json
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from regrow.io.atomic import write_atomically
from regrow.lab.machine import processor
from regrow.nn import SparseLinear
from regrow.ops import isa, plan_bytes

ROOT = Path(__file__).resolve().parents[1]
DENSITIES = (0.01, 0.05, 0.1, 0.2)


def resident() -> int:
    """Bytes of this process in memory, after free memory has been given back."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def layer(features: int, density: float) -> nn.Module:
    """Dense where the density is 1."""
    if density == 1:
        return nn.Linear(features, features, bias=False)
    numel = features * features
    drawn = torch.randint(numel, (round(1.2 * density * numel) + 100,)).unique()
    chosen = torch.randperm(drawn.numel())[: round(density * numel)].sort().values
    return SparseLinear(features, features, bias=False, positions=drawn[chosen])


def train(features: int, density: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A layer after two steps, with its gradient and momentum."""
    module = layer(features, density)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        module(torch.randn(16, features)).sum().backward()
        optimizer.step()
    return module, optimizer


def counted(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    weight: Tensor = module.weight  # type: ignore[assignment]
    assert weight.grad is not None
    sizes = {
        "parameter": weight.nbytes,
        "gradient": weight.grad.nbytes,
        "momentum": optimizer.state[weight]["momentum_buffer"].nbytes,
    }
    if isinstance(module, SparseLinear):
        sizes["indices"] = module.indices.nbytes
        sizes["plan"] = sum(plan_bytes(plan) for plan in module._plans.values())
    return sizes


def measured(features: int, density: float) -> dict[str, object]:
    """Counted and resident bytes of this process, after a small layer has brought along what every first step does."""
    train(64, min(density, 0.5))
    before = resident()
    module, optimizer = train(features, density)
    grown = resident() - before
    return {"density": density, "counted": counted(module, optimizer), "resident": grown}


def in_a_process(features: int, density: float) -> dict[str, object]:
    command = [sys.executable, __file__, "--features", str(features), "--measure", str(density)]
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)


def main() -> None:
    description, _, usage = (__doc__ or "").partition("\n\n    ")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--densities", type=lambda text: [float(word) for word in text.split(",")], default=DENSITIES)
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "layer_memory.json")
    parser.add_argument("--measure", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.measure is not None:
        print(json.dumps(measured(chosen.features, chosen.measure)))
        return
    dense = in_a_process(chosen.features, 1.0)
    rows = [in_a_process(chosen.features, density) for density in chosen.densities]
    for row in rows:
        row["counted_share"] = sum(row["counted"].values()) / sum(dense["counted"].values())
        row["resident_share"] = row["resident"] / dense["resident"]
        print(f"{row['density']:.0%}: {row['counted_share']:.1%} by count, {row['resident_share']:.1%} resident")
    content = {
        "command": f"python benchmarks/layer_memory.py --features {chosen.features} --densities "
        f"{','.join(map(str, chosen.densities))}",
        "features": chosen.features,
        "processor": processor(),
        "isa": isa(),
        "torch": torch.__version__,
        "dense": dense,
        "rows": rows,
    }
    with write_atomically(chosen.json) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
