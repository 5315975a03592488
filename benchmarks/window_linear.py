"""Three ways to collect the momentum of a Linear layer's inactive weights over a window: time, and memory kept.

"each step": every step's dense gradient, then added to the momentum. "into momentum": every step's product straight
into the momentum, as `weights.StagedGradient` does. "whole window": the factors of all steps, multiplied out at the
update, block by block, so that nothing of dense size exists. Processor time of one thread, best of several windows in
turn; memory by count. Writes results/window_linear.json.

    python benchmarks/window_linear.py
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from regrow.io.atomic import write_atomically
from regrow.lab.bench.timing import times_in_turn
from regrow.lab.machine import processor
from regrow.weights.compressed import DEFAULT_WINDOW

ROOT = Path(__file__).resolve().parents[1]
CASES = ((784, 300, 100), (1024, 4096, 128), (4096, 4096, 128), (4096, 4096, 32))
"""Inputs, outputs, batch."""
MU, BLOCK = 0.9, 256
Steps = list[tuple[Tensor, Tensor]]


def each_step(steps: Steps, moment: Tensor, staged: Tensor) -> None:
    for left, right in steps:
        gradient = left.t() @ right
        staged.zero_().add_(gradient)
        torch.add(staged, moment, alpha=MU, out=moment)


def into_momentum(steps: Steps, moment: Tensor) -> None:
    for left, right in steps:
        moment.addmm_(left.clone().t(), right.clone(), beta=MU)


def whole_window(steps: Steps) -> None:
    """Ends with |M| of one block of outputs after the other, for a running top-k."""
    left = torch.cat([left * MU**age for age, (left, _) in enumerate(reversed(steps))])
    right = torch.cat([right for _, right in reversed(steps)])
    for block in left.split(BLOCK, dim=1):
        (block.t() @ right).abs_()


def measured(inputs: int, outputs: int, batch: int, window: int, rounds: int) -> dict[str, object]:
    steps = [(torch.randn(batch, outputs), torch.randn(batch, inputs)) for _ in range(window)]
    dense, factors = inputs * outputs, batch * (inputs + outputs)
    moment, staged = torch.zeros(outputs, inputs), torch.zeros(outputs, inputs)
    ways = {
        "each step": partial(each_step, steps, moment, staged),
        "into momentum": partial(into_momentum, steps, moment),
        "whole window": partial(whole_window, steps),
    }
    numbers = {
        "each step": 3 * dense,
        "into momentum": dense + min(factors, dense),
        "whole window": window * factors + min(BLOCK, outputs) * inputs,
    }
    times = times_in_turn(ways, 0, "cpu", rounds)
    return {
        "layer": f"{inputs}->{outputs}",
        "batch": batch,
        "window": window,
        "ms": {way: min(spent) for way, spent in times.items()},
        "mb": {way: 4 * count / 2**20 for way, count in numbers.items()},
    }


def main() -> None:
    description, _, usage = (__doc__ or "").partition("\n\n    ")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--window", type=int, default=DEFAULT_WINDOW)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "window_linear.json")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for case in CASES:
        rows.append(measured(*case, chosen.window, chosen.rounds))
        print(json.dumps(rows[-1]), flush=True)
    command = f"python benchmarks/window_linear.py --window {chosen.window} --rounds {chosen.rounds}"
    content = {"command": command, "processor": processor(), "torch": torch.__version__, "rows": rows}
    with write_atomically(chosen.json) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
