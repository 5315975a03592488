"""Measure sparse layers against the best dense ones: the logic of `regrow bench layers`.

Forward and backward through autograd and the public modules, every contestant in turn in one process and
under one allocator, medians. A sparse convolution is fed and asked in the blocked layout, as inside a chain
of layers (`sparse_ms`); with ordinary tensors at both ends it is `sparse_ordinary_ms`. Linear is always
ordinary. nn.Linear (`nchw`) runs in MKL; `onednn` has oneDNN's inner product do the same three products.
"""

from __future__ import annotations

import logging
import re
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regrow import ops
from regrow.lab.machine import processor
from regrow.nn import SparseConv2d, SparseLinear, to_blocked

from .timing import Step, noise, times_in_turn, working

# The list of DESIGN section 4. `b` is the batch where it is not the default.
CASES = (
    "conv3x3:64->64@32",
    "conv3x3:128->128@16",
    "conv3x3:256->256@8",
    "conv3x3:512->512@8b64",
    "conv3x3:512->512@4",
    "conv3x3:512->512@2",
    "conv3x3:160->160@32b32",
    "conv3x3:128->256@16s2b32",
    "conv1x1:256->64@56b32",
    "linear:784->300",
    "linear:1024->4096",
    "linear:4096->4096",
)
DENSITIES = (0.2, 0.1, 0.05, 0.02, 0.01)
GRAMMAR = (
    "convKHxKW:IN->OUT@SIZE (or @HxW) then any of sSTRIDE pPADDING dDILATION bBATCH, such as conv3x3:128->256@16s2; "
    "or linear:IN->OUT then bBATCH, such as linear:1024->4096"
)
KINDS = ("nchw", "channels_last", "compile", "bf16", "onednn")

_CONV = re.compile(r"conv(\d+)x(\d+):(\d+)->(\d+)@(\d+)(?:x(\d+))?((?:[spdb]\d+)*)$")
_LINEAR = re.compile(r"linear:(\d+)->(\d+)((?:b\d+)*)$")


@dataclass(frozen=True)
class Case:
    """One layer shape: `conv3x3:128->256@16s2` or `linear:1024->4096`.

    Grammar: `convKHxKW:IN->OUT@SIZE` or `@HxW`, then any of sSTRIDE, pPADDING (default: keeps the size at
    stride 1), dDILATION, bBATCH; `linear:IN->OUT`, then bBATCH.
    """

    text: str
    inputs: int
    outputs: int
    kernel: tuple[int, int] | None
    image: tuple[int, int]
    stride: int
    padding: tuple[int, int]
    dilation: int
    batch: int

    def dense(self) -> nn.Module:
        """The dense layer, without bias."""
        if self.kernel is None:
            return nn.Linear(self.inputs, self.outputs, bias=False)
        geometry = (self.kernel, self.stride, self.padding, self.dilation)
        return nn.Conv2d(self.inputs, self.outputs, *geometry, bias=False)  # type: ignore[arg-type]

    def input(self) -> Tensor:
        """A random input."""
        sizes = (self.batch, self.inputs) if self.kernel is None else (self.batch, self.inputs, *self.image)
        return torch.randn(sizes)


def parse_case(text: str, batch: int = 128) -> Case:
    """Read a case; see `Case`. Raises ValueError with the grammar."""
    case = _parse(text, batch)
    if case is None or min(_sizes(case)) < 1:
        raise ValueError(f"{text!r} is not a case; write {GRAMMAR}")
    return case


def _sizes(case: Case) -> tuple[int, ...]:
    kernel = case.kernel or (1, 1)
    return case.inputs, case.outputs, case.stride, case.dilation, case.batch, *case.image, *kernel


def _parse(text: str, batch: int) -> Case | None:
    if found := _LINEAR.match(text):
        options = _options(found[3])
        return Case(text, int(found[1]), int(found[2]), None, (1, 1), 1, (0, 0), 1, options.get("b", batch))
    if found := _CONV.match(text):
        kernel, image = (int(found[1]), int(found[2])), (int(found[5]), int(found[6] or found[5]))
        options = _options(found[7])
        dilation = options.get("d", 1)
        same = tuple(dilation * (size - 1) // 2 for size in kernel)
        padding = (options["p"], options["p"]) if "p" in options else (same[0], same[1])
        sizes = (int(found[3]), int(found[4]))
        return Case(text, *sizes, kernel, image, options.get("s", 1), padding, dilation, options.get("b", batch))
    return None


def _options(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"([spdb])(\d+)", text)}


# -- contestants


def _random_mask(weight: Tensor, density: float) -> Tensor:
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[torch.randperm(weight.numel())[: max(1, round(density * weight.numel()))]] = True
    return mask.view_as(weight)


def _step(module: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor, parameters: Sequence[Tensor]) -> Step:
    """Forward and backward, gradients of the input and of the weight."""
    leaf = x.detach().requires_grad_()

    def run() -> tuple[Tensor, ...]:
        leaf.grad = None
        for parameter in parameters:
            parameter.grad = None
        output = module(leaf)
        output.backward(grad)
        assert leaf.grad is not None
        return output.detach(), leaf.grad, *(p.grad for p in parameters if p.grad is not None)

    return run


def _layer_step(layer: nn.Module, x: Tensor, grad: Tensor) -> Step:
    return _step(layer, x, grad, [layer.weight])  # type: ignore[list-item]


def _bf16(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return layer(x)

    return run


def _product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b.t()` in oneDNN (the operator that torch.compile's freezing uses; ONEDNN_VERBOSE=1 shows it run)."""
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


class _OneDNN(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(x, weight)
        return _product(x, weight)

    @staticmethod
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, weight = context.saved_tensors
        return _product(grad, weight.t()), _product(grad.t(), x.t())


def _dense_step(kind: str, dense: nn.Module, x: Tensor, grad: Tensor) -> Step | None:
    """A dense contestant, or None where the kind does not apply to this layer."""
    image = x.dim() == 4
    weight: Any = dense.weight
    if kind == "nchw":
        return _layer_step(dense, x, grad)
    if kind == "channels_last" and image:
        last = {"memory_format": torch.channels_last}
        copy = nn.Conv2d(1, 1, 1)
        copy.__dict__.update({**dense.__dict__, "_parameters": dict(dense._parameters)})
        copy.weight = nn.Parameter(weight.detach().clone(**last))
        return _layer_step(copy, x.contiguous(**last), grad.contiguous(**last))
    if kind == "compile":
        return _step(torch.compile(dense), x, grad, [weight])
    if kind == "bf16":
        return _step(_bf16(dense), x, grad.bfloat16(), [weight])
    if kind == "onednn" and not image:
        return _step(lambda x: _OneDNN.apply(x, weight), x, grad, [weight])
    return None


def _peers(dense: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Step]:
    """Other sparse layers, for Linear."""
    if x.dim() != 2:
        return {}
    weight: Any = dense.weight
    csr = weight.detach().to_sparse_csr().requires_grad_()
    return {
        "torch_csr": _step(lambda x: torch.sparse.mm(csr, x.t()).t(), x, grad, [csr]),
        **_sparselab(dense, x, grad),
    }


def _sparselab(dense: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Step]:
    try:
        from sparselab import SparseLinear as Peer  # type: ignore[import-not-found]
    except ImportError:
        return {}
    weight: Any = dense.weight
    density = float((weight != 0).float().mean())
    peer = Peer(weight.shape[1], weight.shape[0], sparsity=1 - density, bias=False)
    return {"sparselab": _step(peer, x, grad, list(peer.parameters()))}


# -- measuring


def _is_news(record: logging.LogRecord) -> bool:
    return "No CUDA runtime is found" not in record.getMessage()


def _quiet() -> None:
    """Silences what contestants say about themselves, which is no fault of anything here."""
    logging.getLogger("torch.utils.cpp_extension").addFilter(_is_news)  # said by torch.compile
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support")


def _error(got: tuple[Tensor, ...], want: tuple[Tensor, ...], indices: Tensor) -> float:
    """Largest error of output, input gradient and weight gradient, each against its own largest entry."""
    y, dx, dw = (tensor.dense() if hasattr(tensor, "dense") else tensor for tensor in got)
    want = (want[0], want[1], want[2].reshape(-1)[indices.long()].unsqueeze(1))
    pairs = zip((y, dx, dw), want, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)


def _sparse_steps(layer: Any, x: Tensor, grad: Tensor) -> dict[str, Step]:
    if x.dim() == 2:
        return {"sparse": _layer_step(layer, x, grad)}
    blocked = _layer_step(layer, to_blocked(x), to_blocked(grad))
    return {"sparse": blocked, "sparse_ordinary": _layer_step(layer, x, grad)}


def measure(
    case: Case, density: float, kinds: Sequence[str] = KINDS, seconds: float = 0.5, clock: str = "wall"
) -> dict[str, Any]:
    """One row. `seconds` is each contestant's time."""
    torch.manual_seed(0)
    torch.compiler.reset()  # else it gives up after eight layers, and guesses dynamic shapes from the second on
    dense, x = case.dense(), case.input()
    with torch.no_grad():
        dense.weight.mul_(_random_mask(dense.weight, density))  # type: ignore[operator,arg-type]
        grad = torch.randn_like(dense(x))
    kind = SparseLinear if case.kernel is None else SparseConv2d
    layer = kind.from_dense(dense)  # type: ignore[arg-type]
    layer.compute = "sparse"
    steps = {name: step for name in kinds if (step := _dense_step(name, dense, x, grad)) is not None}
    peers = _peers(dense, x, grad)
    good, bad = working({**_sparse_steps(layer, x, grad), **steps, **peers})
    error = _error(good["sparse"](), _layer_step(dense, x, grad)(), layer.indices)
    times = times_in_turn(good, seconds, clock)
    return _row(case, density, times, bad, {"max_rel_error": error, "active": layer.active, "peers": list(peers)})


def _row(case: Case, density: float, times: dict[str, list[float]], bad: dict[str, str], more: dict) -> dict[str, Any]:
    medians = {name: statistics.median(values) for name, values in times.items()}
    peers = {name: medians[name] for name in more.pop("peers") if name in medians}
    sparse = medians["sparse"]
    dense = {name: medians[name] for name in KINDS if name in medians}
    fp32: dict[str, float] = {name: dense[name] for name in ("nchw", "channels_last", "compile") if name in dense}
    best = min(fp32, key=lambda name: fp32[name]) if fp32 else None
    return {
        "case": case.text,
        "density": density,
        "batch": case.batch,
        "threads": torch.get_num_threads(),
        "sparse_ms": sparse,
        "sparse_ordinary_ms": medians.get("sparse_ordinary"),
        "dense_ms": dense,
        "peers_ms": peers,
        "best_fp32": best,
        "ratio_best_fp32": fp32[best] / sparse if best else None,
        "ratio_onednn": dense["onednn"] / sparse if "onednn" in dense else None,
        "ratio_bf16": dense["bf16"] / sparse if "bf16" in dense else None,
        "noise": {name: noise(values) for name, values in times.items()},
        "failed": bad,
        **more,
    }


def run(
    cases: Sequence[str] = CASES,
    densities: Sequence[float] = DENSITIES,
    batch: int = 128,
    threads: int | None = None,
    kinds: Sequence[str] = KINDS,
    seconds: float = 0.5,
    clock: str = "wall",
    starting: Callable[[str, float], None] = lambda case, density: None,
    progress: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Measure every case at every density.

    Args:
        cases: e.g. `["conv3x3:128->256@16s2", "linear:1024->4096"]`; see `Case`.
        densities: in (0, 1].
        batch: batch size of cases that name none.
        threads: torch's threads meanwhile; default as they are.
        kinds: dense contestants, some of KINDS.
        seconds: time of each contestant in a row.
        clock: "wall", or "cpu": processor time of all threads, for one thread on a busy machine.
        starting: called with case and density before each row.
        progress: called with each row when it is measured.

    Returns:
        Rows as `regrow bench layers --json` writes them: case, density, batch, threads, sparse_ms, dense_ms
        by kind, peers_ms, ratios (above 1: sparse is faster), max_rel_error, noise (quartile distance over
        median), failed contestants with the reason, and where it was measured (processor, isa, torch,
        allocator).
    """
    _quiet()
    ops.keep_pages()  # both sides the same, and neither pays for page faults
    where = {
        "isa": ops.isa(),
        **{key: ops.info()[key] for key in ("torch", "allocator")},
        "processor": processor(),
        "clock": clock,
    }
    parsed = [parse_case(text, batch) for text in cases]
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    rows = []
    try:
        for case in parsed:
            for density in densities:
                starting(case.text, density)
                rows.append({**measure(case, density, kinds, seconds, clock), **where})
                progress(rows[-1])
    finally:
        torch.set_num_threads(before)
    return rows
