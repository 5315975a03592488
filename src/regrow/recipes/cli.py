"""The command line `regrow`. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .command import Command
from .errors import Interrupted

__all__ = ["app"]

WELCOME = """\
regrow trains neural networks that are sparse from the first step to the last.

  regrow demo                                   a small network, dense and at 10 % density, in seconds
  regrow list                                   the recipes
  regrow train lenet300-mnist --density 0.05    one whole run; its folder appears under runs/
  regrow --help                                 everything else"""

app = typer.Typer(
    name="regrow",
    cls=Command,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

bench = typer.Typer(name="bench", rich_markup_mode="rich")
app.add_typer(bench)

ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, metavar="N", help="Threads of torch; default: the recipe's, else torch's choice."),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        import regrow

        typer.echo(f"regrow {regrow.__version__}, torch {metadata.version('torch')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version, and end.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere on the line.")
    ] = False,
) -> None:
    """Trains neural networks that are sparse from the first step to the last.

    \b
    Examples:
      regrow demo
      regrow train lenet300-mnist --density 0.05 --seed 0
    """
    if context.invoked_subcommand is None:
        typer.echo(WELCOME)


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A name that `regrow list` shows.", show_default=False)
    ],
    method: Annotated[
        str, typer.Option(metavar="METHOD", help="sparse-momentum, dense, or static (sparse, topology never changes).")
    ] = "sparse-momentum",
    density: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Share of the weights that exist, above 0 to 1; default 0.05, dense: 1."),
    ] = None,
    storage: Annotated[str, typer.Option(metavar="STORAGE", help="auto, masked or compressed.")] = "auto",
    seed: Annotated[int, typer.Option(metavar="N", help="Of split, network, topology and order of examples.")] = 0,
    epochs: Annotated[
        int | None,
        typer.Option(metavar="N", help="The learning-rate schedule is stretched to this; default: recipe's."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="Default: the recipe's.")] = None,
    images: Annotated[
        int | None, typer.Option(metavar="N", help="Of the training set, at random, the same ones for every seed.")
    ] = None,
    warmup: Annotated[
        float | None, typer.Option(metavar="EPOCHS", help="In which the learning rate rises; default: the recipe's.")
    ] = None,
    share: Annotated[
        str | None, typer.Option(metavar="RULE", help="Of freed weights: momentum, none or momentum-per-flop.")
    ] = None,
    flops_budget: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of dense FLOPs, within which momentum shares out.")
    ] = None,
    max_density: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of a layer, to which it can grow.")
    ] = None,
    update_every: Annotated[
        int | None, typer.Option(metavar="STEPS", help="Between topology updates; default: an epoch.")
    ] = None,
    window: Annotated[
        str | None, typer.Option(metavar="STEPS", help="Before an update in which missing weights are seen, or all.")
    ] = None,
    window_batch: Annotated[
        int | None, typer.Option(metavar="N", help="Examples of a batch that are used for it; default: all.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where data sets are; default: $REGROW_DATA, else ~/.cache/regrow."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the run; default: runs/RECIPE/METHOD-DENSITY-…")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the folder's checkpoint, to the same bits; start where none is."),
    ] = False,
    max_seconds: Annotated[
        float | None,
        typer.Option(metavar="S", help="Ends after the epoch in which they are over; schedules stay as they are."),
    ] = None,
    topology_every: Annotated[
        int | None, typer.Option(min=1, metavar="EPOCHS", help="Write topology-epochN.npz, besides the one at the end.")
    ] = None,
    threads: ThreadsOption = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the recipe; may be given several times."),
    ] = None,
) -> None:
    """Trains one recipe and leaves a run folder.

    The folder holds summary.json, metrics.jsonl (a line an epoch), topology.jsonl (a line an update and layer),
    topology.npz (the active sets at the end) and checkpoint.pt. Ctrl-C saves and says how to go on.

    \b
    Examples:
      regrow train lenet300-mnist --method dense --seed 3 --set lr=0.05 --resume
      regrow train vgg16-d-cifar10 --density 0.05 --epochs 20 --flops-budget 0.1
    """
    from .command import resume_command
    from .progress import terminal_reporter
    from .settings import make_settings
    from .tables import print_summary
    from .training import train as run

    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "images": images,
        "warmup_epochs": warmup,
        "share": share,
        "flops_budget": flops_budget,
        "max_density": max_density,
        "update_every": update_every,
        "window": window,
        "window_batch": window_batch,
    }
    overrides = [*(set_ or []), *(f"{key}={value}" for key, value in given.items() if value is not None)]
    settings = make_settings(recipe, method=method, density=density, storage=storage, seed=seed, overrides=overrides)
    folder = out or settings.folder()
    how: dict[str, Any] = {
        "data_dir": data_dir,
        "threads": threads,
        "max_seconds": max_seconds,
        "topology_every": topology_every,
    }
    try:
        summary = run(settings, out=folder, resume=resume, reporter=terminal_reporter(), **how)
    except Interrupted as stop:
        raise Interrupted(f"{stop}; go on with: {resume_command(settings, out=out, **how)}") from None
    print_summary(summary, folder)


@app.command(name="list")
def list_() -> None:
    """Lists the recipes and the settings that --set can change.

    \b
    Examples:
      regrow list
      regrow list | grep mnist
    """
    from .tables import print_recipes

    print_recipes()


@app.command()
def demo(
    seed: Annotated[int, typer.Option(metavar="N", help="As for `regrow train`.")] = 0,
    density: Annotated[float, typer.Option(metavar="SHARE", help="Of the sparse run, above 0 to 1.")] = 0.1,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the two run folders.")] = Path("runs/demo"),
    threads: ThreadsOption = None,
) -> None:
    """Trains a small network dense and sparse, and compares the two; some seconds, no download.

    \b
    Examples:
      regrow demo
      regrow demo --density 0.05 --seed 1
    """
    from .demo import run_demo

    run_demo(density, seed, out, threads)


@app.command()
def summary(
    path: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A run folder, or its checkpoint.pt.", show_default=False)
    ],
) -> None:
    """Shows the layers of a saved network: shape, active weights, density, storage.

    \b
    Examples:
      regrow summary runs/demo/sparse-momentum-0.1-s0-44136fa3
      regrow summary runs/demo/sparse-momentum-0.1-s0-44136fa3/checkpoint.pt
    """
    from .inspection import print_checkpoint

    print_checkpoint(path)


@app.command()
def doctor() -> None:
    """Shows what compressed layers run on here; exit code 1, with the remedy, where the native kernels are not loaded.

    \b
    Examples:
      regrow doctor
      regrow doctor && regrow bench layers --cases "linear:1024->4096"
    """
    from .doctor import print_doctor

    print_doctor()


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
        str | None, typer.Option(metavar="CASE,…", help="Layer shapes; default: the twelve that regrow is judged by.")
    ] = None,
    densities: Annotated[str, typer.Option(metavar="SHARE,…", help="Each above 0 to 1.")] = "0.2,0.1,0.05,0.02,0.01",
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Of cases that name none.")] = 128,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, metavar="N", help="Threads of torch; default: torch's choice.")
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", dir_okay=False, help="Write the rows there, anew after each."),
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(metavar="KIND,…", help="Dense layers: nchw, channels_last, compile, bf16, onednn; default: all."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, metavar="S", help="Time of each contestant in a row.")] = 0.5,
    clock: Annotated[
        str, typer.Option(metavar="CLOCK", help="wall, or cpu: processor time, for one thread on a busy machine.")
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
    from .bench_report import run_bench_layers

    given = {"cases": cases, "densities": densities, "batch": batch, "threads": threads}
    run_bench_layers({**given, "kinds": kinds, "seconds": seconds, "clock": clock}, json)


@bench.command()
def step(
    model: Annotated[str, typer.Option(metavar="NAME,…", help="Networks of regrow.recipes.models.")] = "vgg16-d",
    density: Annotated[str, typer.Option(metavar="SHARE,…", help="Of the weights, uniform; above 0 to 1.")] = "0.05",
    batch: Annotated[str, typer.Option(metavar="N,…", help="Images of a batch.")] = "128",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, metavar="N", help="Threads of torch; default: torch's choice.")
    ] = None,
    topology: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Active sets of a trained network (topology.npz of its run), not uniform ones."
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", dir_okay=False, help="Write the rows there, anew after each."),
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(metavar="KIND,…", help="Dense steps: nchw, channels_last, compile, bf16; default: all."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, metavar="S", help="Time of each contestant in a row.")] = 5.0,
    memory: Annotated[bool, typer.Option(help="Measure the peak memory of each, in a process of its own.")] = True,
) -> None:
    """Measures whole training steps, sparse beside dense, in turn in one process: forward, loss, backward, optimizer.

    With the time by kind of work, the peak memory, and what the sparse step costs when it leaves its memory layout at
    every convolution ("converting").

    \b
    Examples:
      regrow bench step --model vgg16-d --density 0.05,0.1
      regrow bench step --model vgg16-d --topology results/topologies/vgg16-d-0.05.npz --json step.json
    """
    from .bench_step_report import run_bench_step

    given = {"model": model, "density": density, "batch": batch, "threads": threads, "topology": topology}
    run_bench_step({**given, "kinds": kinds, "seconds": seconds, "memory": memory}, json)


@bench.command(name="run")
def run_(
    model: Annotated[
        str, typer.Option(metavar="NAME", help="A network that has a recipe for CIFAR-10, see `regrow list`.")
    ] = "vgg16-d",
    density: Annotated[str, typer.Option(metavar="SHARE,…", help="Of the weights, if no topology is given.")] = "0.05",
    topology: Annotated[
        str | None,
        typer.Option(metavar="FILE,…", help="Start from the active sets of trained networks (topology.npz of a run)."),
    ] = None,
    share: Annotated[
        str | None, typer.Option(metavar="RULE", help="As for `regrow train`; default: the topology's, the recipe's.")
    ] = None,
    flops_budget: Annotated[
        float | None, typer.Option(metavar="SHARE", help="As for `regrow train`; default: the topology's.")
    ] = None,
    window: Annotated[str | None, typer.Option(metavar="STEPS", help="As for `regrow train`.")] = None,
    window_batch: Annotated[int | None, typer.Option(metavar="N", help="As for `regrow train`.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, metavar="N", help="Threads of torch; default: torch's choice.")
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(metavar="KIND,…", help="Dense networks: nchw, channels_last, compile, bf16; default: all."),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="As for `regrow train`.")] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", dir_okay=False, help="Write the rows there, anew after each."),
    ] = None,
) -> None:
    """Measures a whole epoch as a user trains it, sparse beside dense: data, steps, window, update and validation.

    \b
    Examples:
      regrow bench run --model vgg16-d --topology results/topologies/vgg16-d-0.05.npz --json run.json
      regrow bench run --model vgg16-d-half --density 0.05 --share none --kinds channels_last
    """
    from .bench_run_report import run_bench_run

    given: dict[str, Any] = {"model": model, "density": density, "topology": topology, "share": share}
    given |= {"flops_budget": flops_budget, "window": window, "window_batch": window_batch}
    given |= {"threads": threads, "kinds": kinds, "data_dir": data_dir}
    run_bench_run(given, json)
