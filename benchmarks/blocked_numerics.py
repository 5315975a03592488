"""Distance of VGG16-D's float32 weight gradients from float64, by layer: dense PyTorch and blocked sparse.

Once with ReLU and max pools, where a value that rounding carries over a kink sends its gradient another way, and once
with SiLU and average pools, which have no kinks. Medians over seeds. Writes results/blocked_numerics.json.

    python benchmarks/blocked_numerics.py
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import regrow
from regrow.io.atomic import write_atomically
from regrow.lab.machine import processor
from regrow.lab.models import build
from regrow.nn import SparseConv2d, SparseLayer

ROOT = Path(__file__).resolve().parents[1]
SMOOTH = {nn.ReLU: nn.SiLU, nn.MaxPool2d: lambda: nn.AvgPool2d(2)}


def network(density: float, smooth: bool, seed: int) -> nn.Module:
    """A sparse VGG16-D that computes sparsely in every layer, without dropout."""
    torch.manual_seed(seed)
    net = build("vgg16-d")
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(parent, name, nn.Identity())
            elif smooth and type(child) in SMOOTH:
                setattr(parent, name, SMOOTH[type(child)]())
    net = regrow.sparsify(net, density, storage="compressed", seed=seed)
    for layer in net.modules():
        if isinstance(layer, SparseLayer):
            layer.compute = "sparse"
    return net


def gradients(net: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    net.zero_grad()
    F.cross_entropy(net(x), y).backward()
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | SparseConv2d)]
    return [layer.weight.grad.double().flatten() for layer in layers]  # type: ignore[union-attr]


def distances(density: float, batch: int, smooth: bool, seed: int) -> dict[str, list[float]]:
    """Relative distances (2-norm, at the active weights) of each convolution's gradient from float64."""
    sparse = network(density, smooth, seed)
    dense = regrow.densify(sparse)
    wide = copy.deepcopy(dense).double()
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    exact, plain, own = gradients(wide, x.double(), y), gradients(dense, x, y), gradients(sparse, x, y)
    active = [m.indices.long() for m in sparse.modules() if isinstance(m, SparseConv2d)]
    exact = [g[a] for g, a in zip(exact, active, strict=True)]
    plain = [g[a] for g, a in zip(plain, active, strict=True)]
    return {
        kind: [float((g - e).norm() / e.norm()) for g, e in zip(found, exact, strict=True)]
        for kind, found in (("dense", plain), ("blocked", own))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=9)
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "blocked_numerics.json")
    chosen = parser.parse_args()
    content: dict[str, object] = {
        "command": f"python benchmarks/blocked_numerics.py --batch {chosen.batch} --density {chosen.density:g} "
        f"--seeds {chosen.seeds}",
        "processor": processor(),
        "torch": torch.__version__,
    }
    for kind, smooth in (("ReLU, max pool", False), ("SiLU, average pool", True)):
        runs = [distances(chosen.density, chosen.batch, smooth, seed) for seed in range(chosen.seeds)]
        content[kind] = {
            name: [median(same) for same in zip(*(run[name] for run in runs), strict=True)] for name in runs[0]
        }
        print(kind, json.dumps(content[kind]))
    with write_atomically(chosen.json) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
