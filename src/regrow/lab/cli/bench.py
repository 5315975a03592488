"""The commands `regrow bench …`. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .command import Command

__all__ = ["bench"]

bench = typer.Typer(name="bench", cls=Command, rich_markup_mode="rich")

ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, metavar="N", help="Number of torch threads; default: torch's choice.")
]
ModelsOption = Annotated[str, typer.Option(metavar="NAME,…", help="Names of networks in regrow.lab.models.")]
DensitiesOption = Annotated[
    str | None,
    typer.Option(metavar="SHARE,…", help="Densities, uniform, above 0 to 1; default: 0.05, or the topology's."),
]
TopologyOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Use the active sets of a trained network (topology.npz of its run) instead of uniform ones; layers that "
        "it leaves dense stay dense.",
    ),
]
JsonOption = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", dir_okay=False, help="Write the rows to this file, after each row."),
]


@bench.callback()
def bench_main() -> None:
    """Measures speed on this machine.

    \b
    Examples:
      regrow bench layers --cases "linear:1024->4096" --densities 0.05
      regrow bench step --model vgg16-d --density 0.05
    """


@bench.command()
def layers(
    cases: Annotated[
        str | None, typer.Option(metavar="CASE,…", help="Layer shapes; default: the twelve benchmark layers.")
    ] = None,
    densities: Annotated[
        str, typer.Option(metavar="SHARE,…", help="Densities, each above 0 to 1.")
    ] = "0.2,0.1,0.05,0.02,0.01",
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Batch of cases that name none.")] = 128,
    threads: ThreadsOption = None,
    json: JsonOption = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            metavar="KIND,…", help="Dense layers to compare: nchw, channels_last, compile, bf16, onednn; default: all."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, metavar="S", help="Seconds to measure each contestant.")] = 0.5,
    clock: Annotated[
        str, typer.Option(metavar="CLOCK", help="wall, or cpu: CPU time, for one thread on a busy machine.")
    ] = "wall",
) -> None:
    """Measures sparse layers beside dense ones and other sparse ones, forward and backward, in turn in one process.

    A case is convKHxKW:IN->OUT@SIZE (or @HxW), then any of sSTRIDE, pPADDING, dDILATION and bBATCH; or linear:IN->OUT,
    then bBATCH. Quote it: the shell takes > for itself.

    \b
    Examples:
      regrow bench layers --cases "conv3x3:128->256@16s2,linear:1024->4096" --densities 0.1,0.05
      regrow bench layers --threads 2 --json layers.json
    """
    from regrow.lab.bench.layers_report import run_bench_layers

    given = {"cases": cases, "densities": densities, "batch": batch, "threads": threads}
    run_bench_layers({**given, "kinds": kinds, "seconds": seconds, "clock": clock}, json)


@bench.command()
def step(
    model: ModelsOption = "vgg16-d",
    density: DensitiesOption = None,
    batch: Annotated[str, typer.Option(metavar="N,…", help="Batch sizes, in images.")] = "128",
    threads: ThreadsOption = None,
    topology: TopologyOption = None,
    json: JsonOption = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            metavar="KIND,…",
            help="Dense steps to compare: nchw, channels_last, compile, bf16, bf16_channels_last; default: all that "
            "the CPU supports (bf16 needs AVX-512).",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, metavar="S", help="Seconds to measure each contestant.")] = 5.0,
    memory: Annotated[bool, typer.Option(help="Also measure the peak memory of each, in a separate process.")] = True,
) -> None:
    """Measures whole training steps, sparse beside dense, in turn in one process: forward, loss, backward, optimizer.

    Also shows the time by kind of work, the peak memory, and the cost of the sparse step when it leaves its memory
    layout at every convolution ("converting").

    \b
    Examples:
      regrow bench step --model vgg16-d --density 0.05,0.1
      regrow bench step --model vgg16-d --topology results/topologies/vgg16-d-none-0.05.npz --json step.json
    """
    from regrow.lab.bench.step_report import run_bench_step

    given = {"model": model, "density": density, "batch": batch, "threads": threads, "topology": topology}
    run_bench_step({**given, "kinds": kinds, "seconds": seconds, "memory": memory}, json)


@bench.command()
def inference(
    model: ModelsOption = "vgg16-d",
    density: DensitiesOption = None,
    batches: Annotated[str, typer.Option(metavar="N,…", help="Batch sizes, in images.")] = "1,16,128",
    threads: ThreadsOption = None,
    topology: TopologyOption = None,
    json: JsonOption = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            metavar="KIND,…", help="Dense networks to compare: nchw, channels_last, compile, onnxruntime; default: all."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, metavar="S", help="Seconds to measure each contestant.")] = 2.0,
) -> None:
    """Measures the latency of a forward pass in evaluation mode, compressed beside dense, in turn in one process.

    All compute the same network; the file holds the largest difference of their outputs. onnxruntime needs
    regrow[onnx].

    \b
    Examples:
      regrow bench inference --model vgg16-d --density 0.05 --batches 1,16,128 --threads 2
      regrow bench inference --model wrn-28-2 --density 0.1,0.05 --kinds channels_last,onnxruntime --json latency.json
    """
    from regrow.lab.bench.inference_report import run_bench_inference

    given = {"model": model, "density": density, "batches": batches, "threads": threads, "topology": topology}
    run_bench_inference({**given, "kinds": kinds, "seconds": seconds}, json)


@bench.command(name="run")
def run_(
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Network with a CIFAR-10 recipe; see `regrow list`.")
    ] = "vgg16-d",
    density: DensitiesOption = None,
    topology: Annotated[
        str | None,
        typer.Option(
            metavar="FILE,…",
            help="Start from the active sets of trained networks (topology.npz of a run); layers that one leaves dense "
            "stay dense.",
        ),
    ] = None,
    share: Annotated[
        str | None, typer.Option(metavar="RULE", help="Redistribution rule; default: the topology's, or the recipe's.")
    ] = None,
    flops_budget: Annotated[
        float | None, typer.Option(metavar="SHARE", help="FLOP density not to exceed; default: the topology's.")
    ] = None,
    window: Annotated[
        str | None, typer.Option(metavar="STEPS", help="Steps before an update that collect momentum, or all.")
    ] = None,
    window_batch: Annotated[
        int | None, typer.Option(metavar="N", help="Examples of each that are used for it.")
    ] = None,
    threads: ThreadsOption = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            metavar="KIND,…",
            help="Dense networks to compare: nchw, channels_last, compile, bf16, bf16_channels_last; default: all that "
            "the CPU supports (bf16 needs AVX-512).",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of data sets; default: $REGROW_DATA.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Measures a whole epoch, sparse beside dense, with all its parts: data, steps, window, update and validation.

    \b
    Examples:
      regrow bench run --model vgg16-d --topology results/topologies/vgg16-d-none-0.05.npz --json run.json
      regrow bench run --model vgg16-d-half --density 0.05 --share none --kinds channels_last
    """
    from regrow.lab.bench.run_report import run_bench_run

    given: dict[str, Any] = {"model": model, "density": density, "topology": topology, "share": share}
    given |= {"flops_budget": flops_budget, "window": window, "window_batch": window_batch}
    given |= {"threads": threads, "kinds": kinds, "data_dir": data_dir}
    run_bench_run(given, json)
