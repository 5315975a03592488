"""Measure inference, compressed against dense: the logic of `regrow bench inference`.

All contestants compute the same network in evaluation, without gradients: one batch after the other, in turn in one
process. Speed depends on shapes and topology, not on what the images show.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import regrow
from regrow.export.onnx import onnx_session, save_onnx
from regrow.flops import flop_density, flops_per_weight
from regrow.lab import models

from .step import CHANNELS_LAST, Network
from .timing import Step, bench_place, noise, times_in_turn, working

__all__ = ["KINDS", "run"]

KINDS = ("nchw", "channels_last", "compile", "onnxruntime")
"""Dense contestants."""


@torch.no_grad()
def with_signal(network: Network) -> nn.Module:
    """The sparse network in evaluation, its batch norms fitted to a batch of 16.

    As they are made they would let hardly any signal through a sparse network, and equal outputs would say nothing.
    """
    model = network.sparse()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    model(models.example_input(network.model, 16))
    return model.eval()


def _contestant(network: Network, model: nn.Module, kind: str, folder: Path) -> Step:
    """A call of the network of `model` by one kind; made at its first call, so that what is missing shows there."""
    made: list[Step] = []

    def step() -> Any:
        if not made:
            made.append(_make(network, model, kind, folder))
        with torch.no_grad():
            return made[0]()

    return step


def _make(network: Network, model: nn.Module, kind: str, folder: Path) -> Step:
    x = network.images()[0]
    if kind == "sparse":
        return lambda: model(x)
    if kind == "onnxruntime":
        file = folder / f"{network.model}-{network.density}.onnx"
        if not file.exists():  # one for all batches
            save_onnx(file, model, x if len(x) > 1 else x.repeat(2, 1, 1, 1))
        session = onnx_session(file, torch.get_num_threads())
        return lambda: torch.from_numpy(session(x)[0])
    dense = regrow.densify(model)
    if kind in CHANNELS_LAST:
        dense, x = dense.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)  # type: ignore[call-overload]
    called = torch.compile(dense) if kind == "compile" else dense
    return lambda: called(x)


def measure(network: Network, kinds: Sequence[str], seconds: float, folder: Path) -> dict[str, Any]:
    """One row; `folder` is for the ONNX file."""
    torch.compiler.reset()
    model = with_signal(network)
    good, bad = working({kind: _contestant(network, model, kind, folder) for kind in ("sparse", *kinds)})
    times = times_in_turn(good, seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    dense = {kind: medians[kind] for kind in kinds if kind in medians}
    best = min(dense, key=dense.__getitem__, default=None)
    return {
        "model": network.model,
        "density": regrow.summary(model).density,
        "flop_density": flop_density(model, flops_per_weight(model, network.images()[0][:2])),
        "share": network.share,
        "batch": network.batch,
        "threads": torch.get_num_threads(),
        "sparse_ms": medians["sparse"],
        "dense_ms": dense,
        "best_dense": best,
        "ratio_best_dense": dense[best] / medians["sparse"] if best else None,
        "max_rel_error": {kind: _error(good[kind](), good["sparse"]()) for kind in dense},
        "noise": {name: noise(values) for name, values in times.items()},
        "failed": bad,
    }


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def run(
    networks: Sequence[Network],
    threads: int | None = None,
    kinds: Sequence[str] = KINDS,
    seconds: float = 2.0,
    starting: Callable[[Network], None] = lambda network: None,
    progress: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Measure the forward pass of every network.

    Args:
        networks: networks to measure.
        threads: threads of torch and onnxruntime; default torch's.
        kinds: dense contestants, some of KINDS.
        seconds: time of each contestant in a row.
        starting: called with each thing before it is measured.
        progress: called with each row when it is measured.

    Returns:
        Rows as `regrow bench inference --json` writes them: model, density, flop_density, share, batch, threads,
        sparse_ms, dense_ms by kind, best_dense and ratio_best_dense (above 1: sparse is faster), max_rel_error of each
        dense contestant's output, noise (quartile distance over median), failed contestants with the reason, and where
        it was measured (processor, isa, torch, allocator).
    """
    rows = []
    with bench_place(threads) as where, tempfile.TemporaryDirectory() as folder:
        for network in networks:
            starting(network)
            rows.append({**measure(network, kinds, seconds, Path(folder)), **where})
            progress(rows[-1])
    return rows
