"""Where the time of an MLP's training step goes, and what lanes instead of rows between its Linear layers could gain.

Milliseconds of processor time, one thread, medians, every part in turn in one process:

- step: forward, cross entropy, backward, SGD with momentum (fused) of the sparse network, and of the dense one;
- linear: the operators of its sparse layers alone; bias: of these the bias gradients;
- activation, loss, optimizer: torch's operators for ReLU, the loss with its backward, the optimizer's step;
- rest: step less all these: Python and autograd;
- dispatch: what the tensors in which convolutions hand on their layout cost more than ordinary ones, in Python, for all
  hidden layers (a Linear layer as a 1x1 convolution on a plane of one pixel, and its ReLU), from layers of 8 units.

With --lanes, the program src/regrow/ops/csrc/dev/lanes.cpp (its first lines say how to compile it): also what the
kernels and ReLUs take with activations in rows, and in lanes.

With --before, also how many times as fast the step is as with another build of the kernels: a process for each library,
a step of one after a step of the other, median and quartile distance of the ratios.

    python benchmarks/mlp_step.py --lanes /tmp/lanes --before /tmp/before/libregrow.so --json results/mlp_step.json
"""

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn, optim
from torch.nn import functional as F

import regrow
from regrow import ops
from regrow.lab.bench.timing import bench_place, noise, times_in_turn
from regrow.nn import SparseConv2d, SparseLinear, to_blocked

NETWORKS = [(784, 300, 100, 10), (784, 1024, 1024, 10), (784, 2048, 2048, 10)]
BATCHES = [128, 1024]
SHORT, LONG = 4, 24
_ops, _aten = torch.ops.regrow, torch.ops.aten


def network(sizes, density=None):
    torch.manual_seed(0)
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers[:-1])
    return model if density is None else regrow.sparsify(model, density=density, storage="compressed", seed=0)


def training_step(model, batch):
    x, y = torch.randn(batch, model[0].in_features), torch.randint(10, (batch,))
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def linear_calls(model, batch):
    """The operators of all layers, and of the bias gradients alone."""
    calls = []
    for layer in model:
        if isinstance(layer, SparseLinear):
            plan = ops.linear_plan(layer.indices, layer.out_features, layer.in_features, torch.float32)
            x, grad = torch.randn(batch, layer.in_features), torch.randn(batch, layer.out_features)
            calls.append((x, grad, layer.weight.detach(), layer.bias.detach(), layer.indices, plan))

    def linear():
        with torch._C._AutoDispatchBelowAutograd():
            for x, _, weight, bias, indices, plan in calls:
                _ops.sparse_linear.default(x, weight, bias, indices, plan, len(bias))
            for i, (x, grad, weight, _, indices, plan) in enumerate(calls):
                _ops.sparse_linear_backward.default(grad, x, weight, indices, plan, i > 0, True, True)

    def bias():
        with torch._C._AutoDispatchBelowAutograd():
            for x, grad, weight, _, indices, plan in calls:
                _ops.sparse_linear_backward.default(grad, x, weight, indices, plan, False, False, True)

    return linear, bias


def activations(sizes, batch):
    rows = [torch.randn(batch, size) for size in sizes[1:-1]]

    def run():
        for x in rows:
            _aten.threshold_backward.default(x, torch.relu(x), 0)

    return run


def loss(batch):
    x, y = torch.randn(batch, 10, requires_grad=True), torch.randint(10, (batch,))

    def run():
        F.cross_entropy(x, y).backward()
        x.grad = None

    return run


def optimizer(model):
    steps = optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return steps.step


def tiny_chains():
    """Chains of hidden layers with ReLU, forward and backward, in rows and in blocked tensors, by (kind, length)."""

    def chain(make, x, length):
        layers = nn.Sequential(*(layer for _ in range(length) for layer in (make(), nn.ReLU())))
        grad = torch.ones_like(layers(x)).detach()

        def both():
            layers(x).backward(grad)
            layers.zero_grad()

        return both

    def linear():
        return SparseLinear.from_dense(nn.Linear(8, 8), torch.eye(8) > 0)

    def pointwise():
        return SparseConv2d.from_dense(nn.Conv2d(8, 8, 1), (torch.eye(8) > 0).view(8, 8, 1, 1))

    rows = torch.randn(8, 8)
    return {
        (name, length): chain(make, x, length)
        for name, make, x in (("rows", linear, rows), ("blocked", pointwise, to_blocked(rows.view(8, 8, 1, 1))))
        for length in (SHORT, LONG)
    }


def dispatch(ms):
    """Milliseconds that a hidden layer and its ReLU take longer in blocked tensors."""
    each = {name: (ms[name, LONG] - ms[name, SHORT]) / (LONG - SHORT) for name in ("rows", "blocked")}
    return each["blocked"] - each["rows"]


def measure(sizes, batch, density, seconds):
    linear, bias = linear_calls(network(sizes, density), batch)
    parts = {
        "step": training_step(network(sizes, density), batch),
        "dense": training_step(network(sizes), batch),
        "linear": linear,
        "bias": bias,
        "activation": activations(sizes, batch),
        "loss": loss(batch),
        "optimizer": optimizer(network(sizes, density)),
    }
    names, chains = list(parts), tiny_chains()
    for part in parts.values():
        part()
    times = times_in_turn({**parts, **chains}, seconds, "cpu")
    median = {name: statistics.median(values) for name, values in times.items()}
    ms = {name: median[name] for name in names}
    ms["rest"] = ms["step"] - sum(ms[name] for name in ("linear", "activation", "loss", "optimizer"))
    ms["dispatch"] = dispatch(median) * (len(sizes) - 2)
    return {"ms": ms, "noise": {name: noise(times[name]) for name in names}}


# -- against another build of the kernels


def serve(pipe, sizes, batch, density):
    """Makes a step whenever it is asked to, and answers with its milliseconds."""
    ops.keep_pages()
    torch.set_num_threads(1)
    step = training_step(network(sizes, density), batch)
    for _ in range(5):
        step()
    pipe.send(str(ops.info()["library"]))
    while pipe.recv():
        step()
        start = time.process_time()
        step()
        pipe.send((time.process_time() - start) * 1e3)


def against(library, sizes, batch, density, seconds):
    """(before / now of the step's time, noise of it), a step of one after a step of the other."""
    context = multiprocessing.get_context("spawn")
    pipes, children = [], []
    for path in (library, None):
        here, there = context.Pipe()
        if path is not None:
            os.environ["REGROW_LIBRARY"] = str(path)
        child = context.Process(target=serve, args=(there, sizes, batch, density))
        child.start()
        os.environ.pop("REGROW_LIBRARY", None)
        print("  library", here.recv(), flush=True)
        pipes.append(here)
        children.append(child)
    ratios, end = [], time.monotonic() + 8 * seconds
    while time.monotonic() < end or len(ratios) < 9:
        times = []
        for pipe in pipes:
            pipe.send(True)
            times.append(pipe.recv())
        ratios.append(times[0] / times[1])
    for pipe, child in zip(pipes, children, strict=True):
        pipe.send(False)
        child.join()
    return {"ratio_before": statistics.median(ratios), "noise_before": noise(ratios), "rounds": len(ratios)}


def in_lanes(program):
    """What the program measured, by (sizes, batch)."""
    rows = json.loads(subprocess.run([program], check=True, capture_output=True, text=True).stdout)
    return {(row.pop("sizes"), row.pop("batch")): row for row in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each part in a row")
    parser.add_argument("--lanes", type=Path, help="the program that measures activations in lanes")
    parser.add_argument("--before", type=Path, help="another libregrow.so, such as that of an earlier commit")
    parser.add_argument("--json", type=Path, help="the result file")
    asked = parser.parse_args()
    rows, lanes = [], in_lanes(asked.lanes) if asked.lanes else {}
    with bench_place(1) as where:
        for sizes in NETWORKS:
            for batch in BATCHES:
                row = {"sizes": "-".join(map(str, sizes)), "batch": batch, "density": asked.density}
                row |= measure(sizes, batch, asked.density, asked.seconds)
                if lanes:
                    row["lanes"] = lanes[row["sizes"], batch]
                if asked.before:
                    row |= against(asked.before, sizes, batch, asked.density, asked.seconds)
                rows.append({**row, **where, "clock": "cpu", "threads": 1})
                print(row, flush=True)
    if asked.json:
        command = f"python {' '.join(sys.argv)}"
        asked.json.write_text(json.dumps({"command": command, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
