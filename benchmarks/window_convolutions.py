"""Ways to make the window of a convolutional network cheaper: which weights each would grow, and what the kernels cost.

Overlap: VGG16-D of half the width trains by its recipe. In the last 20 steps before an update each way collects the
momentum of inactive weights from the same inputs and gradients of outputs; the positions that it would grow, as many in
each layer as are pruned, are compared with those of all 20 steps by torch's gradient. Cost: the steps of VGG16-D with
the window closed and open, in turn, processor time of one thread. Error: a small network of which one convolution is
wide enough for Winograd's algorithm, trained with it and without over several seeds; as a control also by torch's
operator with the images in reverse order, which differs by rounding too. Writes results/window_convolutions.json.

    python benchmarks/window_convolutions.py
    python benchmarks/window_convolutions.py --steps 40 --rounds 1 --seeds 0 --json /tmp/try.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import regrow
from branching import NETWORKS, Training, made
from regrow.io.atomic import write_atomically
from regrow.lab.bench.timing import times_in_turn
from regrow.lab.data.datasets import cifar10, data_root
from regrow.lab.data.split import Split
from regrow.lab.machine import processor
from regrow.lab.recipes.settings import make_settings
from regrow.lab.training.randomness import generator
from regrow.ops import info, keep_pages
from regrow.weights.compressed import DEFAULT_WINDOW
from window_overlap import NEVER, common, integers, share_of

ROOT = Path(__file__).resolve().parents[1]
MU = 0.9
Way = Callable[[Any, Tensor, Tensor, int], Tensor | None]
"""(layer, input, grad_output, steps until the update) -> gradient of all weights, or None for none in this step."""


def by_torch(layer: Any, x: Tensor, dy: Tensor, age: int) -> Tensor:
    return layer.dense_weight_grad(x, dy)


def by_winograd(layer: Any, x: Tensor, dy: Tensor, age: int) -> Tensor:
    return layer.dense_weight_grad(x, dy, winograd=True) if x.dim() == 4 else layer.dense_weight_grad(x, dy)


def in_bfloat16(layer: Any, x: Tensor, dy: Tensor, age: int) -> Tensor:
    """Factors rounded to bfloat16, products and sums in float32, as AVX512-BF16 and AMX compute."""
    return layer.dense_weight_grad(x.bfloat16().float(), dy.bfloat16().float())


def last(steps: int, layer: Any, x: Tensor, dy: Tensor, age: int) -> Tensor | None:
    return layer.dense_weight_grad(x, dy) if age < steps else None


def every_other(layer: Any, x: Tensor, dy: Tensor, age: int) -> Tensor | None:
    return layer.dense_weight_grad(x, dy) if age % 2 == 0 else None


def first_images(share: float, layer: Any, x: Tensor, dy: Tensor, age: int) -> Tensor:
    kept = round(share * len(x))
    return layer.dense_weight_grad(x[:kept], dy[:kept])


def largest_images(share: float, layer: Any, x: Tensor, dy: Tensor, age: int) -> Tensor:
    """Column-row sampling (Adelman et al. 2021, arXiv:1805.08079): those of largest norm of input times gradient."""
    norms = x.flatten(1).norm(dim=1) * dy.flatten(1).norm(dim=1)
    kept = norms.topk(round(share * len(x))).indices
    return layer.dense_weight_grad(x[kept], dy[kept])


def largest_pixels(share: float, layer: Any, x: Tensor, dy: Tensor, age: int) -> Tensor:
    """The same for each pixel of the output, with centred inputs: batch norm has sums of gradients of 0."""
    if x.dim() < 4:
        return largest_images(share, layer, x, dy, age)
    x = x - x.mean((0, 2, 3), keepdim=True)
    norms = dy.square().sum(1) * F.avg_pool2d(x.square().sum(1), 3, 1, 1)
    least = norms.flatten().topk(round(share * norms.numel())).values[-1]
    return layer.dense_weight_grad(x, dy * (norms >= least).unsqueeze(1))


WAYS: dict[str, Way] = {
    "Winograd": by_winograd,
    "factors in bfloat16": in_bfloat16,
    **{f"the last {steps} of the steps": partial(last, steps) for steps in (17, 15, 10, 5)},
    "every other step": every_other,
    "the first half of the images": partial(first_images, 0.5),
    "the half of the images of largest norm": partial(largest_images, 0.5),
    "the half of the pixels of largest norm": partial(largest_pixels, 0.5),
}


def training_of(name: str, root: Path, seed: int, window: int = 1) -> Training:
    """A network at 5 %, by the protocol of the CIFAR-10 recipes."""
    protocol = make_settings("vgg16-d-cifar10").recipe
    torch.manual_seed(seed)
    model = regrow.sparsify(NETWORKS[name][0](), 0.05, storage="compressed", rescale=False, seed=seed)
    training = made(cifar10(root, 0, protocol.validation_fraction).train, model, protocol, 88_000, window)
    training.updater.expect_update(NEVER)
    return training


def batches(data: Split, seed: int, size: int) -> Iterator[Tensor]:
    for epoch in count():
        order = torch.randperm(len(data), generator=generator(seed, "order", epoch))
        yield from (part for part in order.split(size) if len(part) == size)


class Recorder:
    """Collects the momentum of one layer in every way, from what its backward pass hands over."""

    def __init__(self, weight: Any):
        self.weight, self.age = weight, DEFAULT_WINDOW
        self.moments: dict[str, Tensor] = {}
        weight.module.on_backward = self.note

    @torch.no_grad()
    def note(self, x: Tensor, dy: Tensor) -> None:
        self.age -= 1
        for name, way in {"exact": by_torch, **WAYS}.items():
            gradient = way(self.weight.module, x, dy, self.age)
            moment = self.moments.get(name, torch.zeros(self.weight.shape)).mul_(MU)
            self.moments[name] = moment if gradient is None else moment.add_(gradient)

    def grown(self, name: str, rate: float) -> Tensor:
        """The positions that would be grown, if the layer grew as many as it prunes; what was pruned may come back."""
        number = round(rate * self.weight.active)
        kept = self.weight.indices[self.weight.values.abs().argsort(stable=True)[number:]]
        scores = self.moments[name].flatten().abs()
        scores[kept] = -1
        return scores.topk(number).indices


def overlaps(root: Path, steps: int) -> list[dict[str, Any]]:
    """A row for each way: the fraction of the exact grown set, of all layers and of each."""
    training = training_of("vgg16-d-half", root, 0)
    order = batches(training.data, 0, training.protocol.batch_size)
    training.trained(next(order) for _ in range(steps - DEFAULT_WINDOW))
    print(f"trained for {steps - DEFAULT_WINDOW} steps", file=sys.stderr, flush=True)
    recorders = {name: Recorder(weight) for name, weight in regrow.sparse_weights(training.model).items()}
    training.trained(next(order) for _ in range(DEFAULT_WINDOW))
    rows = []
    for way in WAYS:
        both = {name: common(r.grown(way, 0.5), r.grown("exact", 0.5)) for name, r in recorders.items()}
        by_layer = {name: share_of([counts]) for name, counts in both.items()}
        rows.append({"way": way, "grown": share_of([*both.values()]), "grown_by_layer": by_layer})
    return rows


def costs(root: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step of VGG16-D, and the part of an epoch with one update that its window adds."""
    closed = training_of("vgg16-d", root, 0)
    ways = {"torch": False, "winograd": True}
    open_ = {name: closed.branch(1, update_after=0, winograd=winograd) for name, winograd in ways.items()}
    index = next(batches(closed.data, 0, closed.protocol.batch_size))
    steps = {name: partial(one.step, index) for name, one in {"closed": closed, **open_}.items()}
    times = {name: median(spent) for name, spent in times_in_turn(steps, 0, "cpu", rounds).items()}
    per_epoch = -(-len(closed.data) // closed.protocol.batch_size)
    added = {name: times[name] - times["closed"] for name in ways}
    return {
        "step_ms": times["closed"],
        "window_step_ms": added,
        "steps_per_epoch": per_epoch,
        "of_an_epoch": {name: DEFAULT_WINDOW * ms / (per_epoch * times["closed"]) for name, ms in added.items()},
    }


def reverse(model: Any) -> None:
    """Lets layers take the images of a batch in reverse order for the gradient of all weights: another rounding."""
    for weight in regrow.sparse_weights(model).values():
        plain = weight.module.dense_weight_grad
        weight.module.dense_weight_grad = lambda x, dy, plain=plain, **_: plain(x.flip(0), dy.flip(0))


def errors(root: Path, seeds: Sequence[int], steps: int, every: int) -> dict[str, Any]:
    """Validation errors in percent, by seed, of a small network trained with either kernel."""
    validation = cifar10(root, 0, make_settings("vgg16-d-cifar10").recipe.validation_fraction).validation
    found: dict[str, list[float]] = {"torch": [], "winograd": [], "torch, reversed": []}
    for seed in seeds:
        for name, those in found.items():
            start = training_of("cifar10-conv", root, seed, DEFAULT_WINDOW)
            training = start.branch(DEFAULT_WINDOW, update_after=every, winograd=name == "winograd")
            if name == "torch, reversed":
                reverse(training.model)
            order = batches(training.data, seed, training.protocol.batch_size)
            for done in range(every, steps + 1, every):
                training.trained(next(order) for _ in range(every))
                if done < steps:
                    training.updater.update()
                    training.updater.expect_update(every)
            training.model.eval()
            with torch.no_grad():
                x, y = validation.batch(torch.arange(len(validation)))
                wrong = [
                    (training.model(a).argmax(1) != b).sum() for a, b in zip(x.split(500), y.split(500), strict=True)
                ]
            those.append(100 * float(sum(wrong)) / len(validation))
            print(f"seed {seed}, {name}: {those[-1]:.2f} %", file=sys.stderr, flush=True)
    differences = {
        name: [ours - theirs for ours, theirs in zip(those, found["torch"], strict=True)]
        for name, those in found.items()
        if name != "torch"
    }
    return {
        "steps": steps,
        "update_every": every,
        "validation_error": found,
        "mean": {name: mean(those) for name, those in found.items()},
        "difference": {name: mean(those) for name, those in differences.items()},
        "difference_stderr": {
            name: stdev(those) / len(those) ** 0.5 if len(those) > 1 else None for name, those in differences.items()
        },
    }


def main() -> None:
    description, _, usage = (__doc__ or "").partition("\n\n    ")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100, help="of the half-width VGG16 before its update")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each kernel")
    parser.add_argument("--seeds", type=integers, default=tuple(range(10)))
    parser.add_argument("--error-steps", type=int, default=200, help="of the small network")
    parser.add_argument("--update-every", type=int, default=50, help="of the small network")
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "window_convolutions.json")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # whose processor time says something on a busy machine
    keep_pages()  # as `regrow train` does; otherwise every large tensor is mapped anew
    root = data_root()
    content: dict[str, Any] = {
        "command": f"python benchmarks/window_convolutions.py --steps {chosen.steps} --rounds {chosen.rounds} "
        f"--seeds {','.join(map(str, chosen.seeds))} --error-steps {chosen.error_steps} "
        f"--update-every {chosen.update_every}",
        "torch": torch.__version__,
        "processor": processor(),
        "isa": info()["isa"],
        "threads": 1,
        "window": DEFAULT_WINDOW,
    }
    parts: dict[str, Callable[[], Any]] = {
        "cost": lambda: costs(root, chosen.rounds),
        "overlap": lambda: overlaps(root, chosen.steps),
        "error": lambda: errors(root, chosen.seeds, chosen.error_steps, chosen.update_every),
    }
    for name, part in parts.items():
        content[name] = part()
        print(json.dumps({name: content[name]}, indent=1), flush=True)
        with write_atomically(chosen.json) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
