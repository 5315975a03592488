"""Speed of BatchNorm and ReLU, also with a pool, in the kernels' memory layout and in PyTorch's two.

Training mode, float32, through the modules and autograd. Milliseconds of processor time of one thread, the best of
several calls in turn. Writes results/blocked_layers.json.

    python benchmarks/blocked_layers.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from regrow import ops
from regrow.io.atomic import write_atomically
from regrow.lab.bench.timing import times_in_turn
from regrow.lab.machine import processor
from regrow.nn import BlockedTensor, to_blocked

ROOT = Path(__file__).resolve().parents[1]
VGG = [(64, 32), (128, 16), (256, 8), (512, 4), (512, 2)]
CHAINS = {"BN, ReLU": [], "BN, ReLU, max pool": [nn.MaxPool2d(2)]}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "blocked": to_blocked,
    "nchw": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
}


def computed(x: Tensor) -> Tensor:
    """The tensor, nothing of it left pending."""
    if isinstance(x, BlockedTensor):
        x.deferred.data()
    return x


def backward(chain: nn.Module, x: Tensor, y: Tensor, grad: Tensor) -> None:
    computed(torch.autograd.grad(y, [x, *chain.parameters()], grad, retain_graph=True)[0])


def measured(name: str, channels: int, size: int, batch: int, rounds: int) -> dict[str, object]:
    images = torch.randn(batch, channels, size, size)
    steps: dict[str, Callable[[], object]] = {}
    for layout, place in LAYOUTS.items():
        chain = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True), *CHAINS[name])
        x = place(images).detach().requires_grad_()
        y = computed(chain(x))
        grad = place(torch.randn(y.shape))
        steps[f"{layout} forward"] = lambda chain=chain, x=x: computed(chain(x))
        steps[f"{layout} backward"] = lambda chain=chain, x=x, y=y, grad=grad: backward(chain, x, y, grad)
    times = times_in_turn(steps, 0, "cpu", rounds)
    return {"layers": name, "channels": channels, "size": size} | {step: min(spent) for step, spent in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "blocked_layers.json")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ops.keep_pages()
    rows = []
    for name in CHAINS:
        for channels, size in VGG:
            rows.append(measured(name, channels, size, chosen.batch, chosen.rounds))
            print(json.dumps(rows[-1]), flush=True)
    command = f"python benchmarks/blocked_layers.py --batch {chosen.batch} --rounds {chosen.rounds}"
    where = {"processor": processor(), "isa": ops.isa(), "torch": torch.__version__}
    with write_atomically(chosen.json) as temporary:
        temporary.write_text(json.dumps({"command": command, **where, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
