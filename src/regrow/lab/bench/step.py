"""Measure whole training steps, sparse against dense: the logic of `regrow bench step`.

A step is forward, loss, backward and optimizer, on one batch of random images; every contestant in turn in one
process and under one allocator. Speed depends on shapes and topology, not on what the images show.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

import regrow
from regrow import ops
from regrow.flops import flop_density, flops_per_weight
from regrow.lab import models
from regrow.lab.machine import computes_bf16, peak_memory_mib
from regrow.lab.training.topology_file import left_dense
from regrow.weights.compressed import leave_blocked

from .timing import bench_place, noise, times_in_turn, working

__all__ = ["DENSE", "Network", "default_kinds", "profile", "run"]

FP32 = ("nchw", "channels_last", "compile")
BF16 = ("bf16", "bf16_channels_last")
DENSE = (*FP32, *BF16)
CHANNELS_LAST = ("channels_last", "compile", "bf16_channels_last")


def default_kinds() -> Sequence[str]:
    """Dense contestants that are worth measuring on this processor."""
    return DENSE if computes_bf16() else FP32


@dataclass(frozen=True)
class Network:
    """The network that is measured, cheap to send to another process.

    Attributes:
        model: name for `models.build`.
        density: density of the weights, uniform at first.
        batch: images.
        masks: active sets by parameter name instead, such as those of a trained network; layers that they do not name
            stay dense.
        share: the redistribution rule that made the masks; None for the initial uniform ones.
    """

    model: str
    density: float
    batch: int = 128
    masks: Mapping[str, Tensor] | None = None
    share: str | None = None

    def dense(self) -> nn.Module:
        torch.manual_seed(0)
        return models.build(self.model)

    def sparse(self) -> nn.Module:
        model = self.dense()
        if self.masks is None:
            return regrow.sparsify(model, density=self.density, storage="compressed", seed=0)
        dense = left_dense(model, self.masks)
        return regrow.sparsify(model, density=None, init=self.masks, dense=dense, storage="compressed")

    def images(self) -> tuple[Tensor, Tensor]:
        labels = torch.randint(10, (self.batch,), generator=torch.Generator().manual_seed(0))
        return models.example_input(self.model, self.batch), labels


class TrainingStep:
    """One optimizer step of a network, as the recipes make it."""

    def __init__(self, network: Callable[[Tensor], Tensor], parameters: Any, x: Tensor, y: Tensor, bf16: bool = False):
        self.network, self.x, self.y, self.bf16 = network, x, y, bf16
        self.optimizer = optim.SGD(parameters, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            loss = F.cross_entropy(self.network(self.x), self.y)
        loss.backward()
        self.optimizer.step()


def contestant(network: Network, kind: str) -> TrainingStep:
    """The step of one kind: "sparse", "sparse_converting" (which leaves the layout at every convolution), or dense."""
    x, y = network.images()
    if kind.startswith("sparse"):
        model = network.sparse()
        if kind == "sparse_converting":
            leave_blocked(model)
        return TrainingStep(model, model.parameters(), x, y)
    model = network.dense()
    if kind in CHANNELS_LAST:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = TrainingStep(model, model.parameters(), x, y, bf16=kind in BF16)
    if kind == "compile":
        step.network = torch.compile(model)
    return step


def against(dense: Mapping[str, float], sparse: float) -> dict[str, Any]:
    """Returns how many times as fast as the best dense contestant of each kind; None where none was measured."""
    fp32, bf16 = (
        min((kind for kind in kinds if kind in dense), key=dense.__getitem__, default=None) for kinds in (FP32, BF16)
    )
    return {
        "best_fp32": fp32,
        "best_bf16": bf16,
        "ratio_best_fp32": dense[fp32] / sparse if fp32 else None,
        "ratio_bf16": dense[bf16] / sparse if bf16 else None,
    }


def measure(network: Network, kinds: Sequence[str] = DENSE, seconds: float = 5.0) -> dict[str, Any]:
    """One row: times, ratios, densities."""
    torch.compiler.reset()
    contestants = {kind: contestant(network, kind) for kind in ("sparse", "sparse_converting", *kinds)}
    good, bad = working(contestants)
    times = times_in_turn(good, seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    dense = {name: medians[name] for name in kinds if name in medians}
    sparse = medians["sparse"]
    model = contestants["sparse"].network
    summary = regrow.summary(model)  # type: ignore[arg-type]
    return {
        "model": network.model,
        "density": summary.density,
        "flop_density": flop_density(model, flops_per_weight(model, network.images()[0][:2])),  # type: ignore[arg-type]
        "share": network.share,
        "batch": network.batch,
        "threads": torch.get_num_threads(),
        "sparse_ms": sparse,
        "sparse_converting_ms": medians.get("sparse_converting"),
        "dense_ms": dense,
        **against(dense, sparse),
        "noise": {name: noise(values) for name, values in times.items()},
        "failed": bad,
    }


# -- where the time goes

# Kinds of work, by what the profiler calls an operator; the first that matches.
WORK = (
    ("sparse convolution backward", ("regrow::sparse_conv2d_backward",)),
    ("sparse convolution forward", ("regrow::sparse_conv2d",)),
    ("sparse linear", ("regrow::sparse_linear",)),
    ("leaving and entering the layout", ("regrow::to_blocked", "regrow::from_blocked")),
    ("normalisation, activation and pooling", ("regrow::", "batch_norm", "relu", "threshold", "pool")),
    ("dense convolution and linear", ("convolution", "mkldnn", "addmm", "aten::mm", "aten::linear")),
    ("optimizer", ("sgd", "Optimizer")),
)
OTHER = "everything else"


def profile(network: Network, steps: int = 5) -> dict[str, float]:
    """Milliseconds of a sparse step by kind of work, each operator's own time on the calling thread."""
    step = contestant(network, "sparse")
    for _ in range(3):
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            step()
    breakdown = dict.fromkeys((*(kind for kind, _ in WORK), OTHER), 0.0)
    for event in profiler.key_averages():
        breakdown[_kind_of_work(event.key)] += event.self_cpu_time_total / 1e3 / steps
    return breakdown


def _kind_of_work(operator: str) -> str:
    return next((kind for kind, names in WORK if any(name in operator for name in names)), OTHER)


# -- memory


def peak_memory(network: Network, kind: str, threads: int) -> float:
    """Peak MiB that three steps of one contestant add to a fresh process."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_send_peak, args=(send, network, kind, threads))
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        raise RuntimeError(f"the process that measured the memory of {network.model}, {kind}, died") from None
    finally:
        process.join()


def _send_peak(send: Any, network: Network, kind: str, threads: int) -> None:
    torch.set_num_threads(threads)
    ops.keep_pages()
    before = peak_memory_mib()
    step = contestant(network, kind)
    for _ in range(3):
        step()
    send.send(peak_memory_mib() - before)


def weight_memory(network: Network) -> dict[str, int]:
    """Bytes of parameters, gradients, momentum and positions, sparse and dense."""
    sparse, dense = network.sparse(), network.dense()
    return {
        "sparse": 3 * _bytes(sparse.parameters()) + _bytes(_positions(sparse)),
        "dense": 3 * _bytes(dense.parameters()),
    }


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _positions(model: nn.Module) -> list[Tensor]:
    return [buffer for name, buffer in model.named_buffers() if name.endswith("indices")]


# -- all of it


def run(
    networks: Sequence[Network],
    threads: int | None = None,
    kinds: Sequence[str] | None = None,
    seconds: float = 5.0,
    memory: bool = True,
    starting: Callable[[Network], None] = lambda network: None,
    progress: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Measure the training step of every network.

    Args:
        networks: networks to measure.
        threads: torch's threads meanwhile; default as they are.
        kinds: dense contestants, some of DENSE; None: `default_kinds`.
        seconds: time of each contestant in a row.
        memory: also measure the peak memory of each contestant, in a process of its own.
        starting: called with each thing before it is measured.
        progress: called with each row when it is measured.

    Returns:
        Rows as `regrow bench step --json` writes them: model, density, flop_density, share, batch, threads, sparse_ms,
        sparse_converting_ms (leaving the layout at every convolution), dense_ms by kind, ratios (above 1: sparse is
        faster), noise (quartile distance over median), work_ms by kind of work, peak_mib by contestant, weight_bytes,
        failed contestants with the reason, and where it was measured (processor, isa, torch, allocator).
    """
    rows, kinds = [], default_kinds() if kinds is None else kinds
    with bench_place(threads) as where:
        for network in networks:
            starting(network)
            row = measure(network, kinds, seconds)
            row["work_ms"] = profile(network)
            row["weight_bytes"] = weight_memory(network)
            if memory:
                eager = [kind for kind in ("sparse", *kinds) if kind not in (*row["failed"], "compile")]
                row["peak_mib"] = {kind: peak_memory(network, kind, torch.get_num_threads()) for kind in eager}
            rows.append({**row, **where})
            progress(rows[-1])
    return rows
