"""Cost of a call of a compressed layer beyond its kernels: chains of tiny layers, where a kernel is next to nothing.

Microseconds of processor time a layer, one thread: the difference between a long chain and a short one, so that what
`backward()` costs once is not counted; the best of many rounds in turn. "kernel" is the operators alone, as autograd
would call them; "over" is what the layer adds to that: module, checks, autograd.

    python benchmarks/call_overhead.py --json results/call_overhead.json
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn

from regrow.lab.machine import processor
from regrow.nn import SparseConv2d, SparseLinear, to_blocked
from regrow.ops import info, lanes

SHORT, LONG = 4, 24
_ops = torch.ops.regrow


def layer_steps(make, x):
    """For each chain length: forward, and forward + backward, of layers one after the other."""
    x = x.detach().requires_grad_()

    def chain(length):
        layers = [make() for _ in range(length)]
        parameters = [parameter for layer in layers for parameter in layer.parameters()]

        def forward():
            y = x
            for layer in layers:
                y = layer(y)
            return y

        grad = torch.ones_like(forward()).detach()

        def both():
            forward().backward(grad)
            for parameter in parameters:
                parameter.grad = None

        return forward, both

    return {length: chain(length) for length in (SHORT, LONG)}


def kernel_steps(layer, x, blocked):
    """Does the same as `layer_steps`, with the operators of one layer alone."""
    layer(x)
    (prepared,) = layer._prepared.values()
    weight, bias = layer.weight.detach(), layer.bias.detach()
    if isinstance(layer, SparseLinear):

        def forward():
            return _ops.sparse_linear.default(x, weight, bias, *prepared)

        def backward():
            _ops.sparse_linear_backward.default(x, x, weight, *prepared[:2], True, True, True)
    else:
        arguments, shape = prepared
        width = lanes(weight.dtype)
        ordinary = x.dense() if blocked else x
        data = _ops.to_blocked.default(ordinary, width)

        def forward():
            given = data if blocked else _ops.to_blocked.default(ordinary, width)
            y = _ops.sparse_conv2d.default(given, weight, bias, *arguments)
            return y if blocked else _ops.from_blocked.default(y, shape, width)

        def backward():
            grad = data if blocked else _ops.to_blocked.default(ordinary, width)
            dx, _, _ = _ops.sparse_conv2d_backward.default(grad, data, weight, *arguments, True, True, True)
            return dx if blocked else _ops.from_blocked.default(dx, shape, width)

    def chain(length):
        def forwards():
            with torch._C._AutoDispatchBelowAutograd():
                for _ in range(length):
                    forward()

        def both():
            forwards()
            with torch._C._AutoDispatchBelowAutograd():
                for _ in range(length):
                    backward()

        return forwards, both

    return {length: chain(length) for length in (SHORT, LONG)}


def microseconds(step, calls=20):
    start = time.thread_time()
    for _ in range(calls):
        step()
    return (time.thread_time() - start) / calls * 1e6


def measure(contestants, rounds):
    """(forward, forward + backward) of each contestant, a layer."""
    places = [(name, length, i) for name in contestants for length in (SHORT, LONG) for i in (0, 1)]
    best = dict.fromkeys(places, float("inf"))
    for _ in range(rounds):
        for place in places:
            name, length, i = place
            best[place] = min(best[place], microseconds(contestants[name][length][i]))
    return {
        name: [(best[name, LONG, i] - best[name, SHORT, i]) / (LONG - SHORT) for i in (0, 1)] for name in contestants
    }


def sparse_linear():
    layer = SparseLinear.from_dense(nn.Linear(8, 8))
    layer.set_topology(torch.tensor([3, 40]), torch.ones(2))
    return layer


def sparse_conv():
    layer = SparseConv2d.from_dense(nn.Conv2d(2, 2, 3, padding=1))
    layer.set_topology(torch.tensor([3, 20]), torch.ones(2))
    return layer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, images = torch.randn(4, 8), torch.randn(2, 2, 4, 4)
    blocked = to_blocked(images)
    cases = {
        "SparseLinear": (sparse_linear, lambda: nn.Linear(8, 8), rows, rows),
        "SparseConv2d": (sparse_conv, lambda: nn.Conv2d(2, 2, 3, padding=1), images, images),
        "SparseConv2d, blocked": (sparse_conv, lambda: nn.Conv2d(2, 2, 3, padding=1), blocked, images),
    }
    results = []
    print(f"{'microseconds':24}{'dense':>16}{'kernel':>16}{'layer':>16}{'over kernel':>16}")
    for name, (make_sparse, make_dense, x, x_dense) in cases.items():
        contestants = {
            "dense": layer_steps(make_dense, x_dense),
            "kernel": kernel_steps(make_sparse(), x, x is blocked),
            "layer": layer_steps(make_sparse, x),
        }
        times = measure(contestants, asked.rounds)
        times["over"] = [layer - kernel for layer, kernel in zip(times["layer"], times["kernel"], strict=True)]
        print(f"{name:24}" + "".join(f"{forward:7.1f} /{both:6.1f} " for forward, both in times.values()))
        figures = {kind: {"forward": pair[0], "forward_backward": pair[1]} for kind, pair in times.items()}
        results.append({"layer": name, "microseconds": figures})
    if asked.json:
        where = {"processor": processor(), "isa": info()["isa"], "torch": torch.__version__}
        asked.json.write_text(json.dumps({**where, "rows": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
