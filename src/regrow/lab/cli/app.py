"""The command line `regrow`. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from regrow.lab.errors import Interrupted, UsageError, refuse_twice

from .bench import bench
from .command import Command
from .compare import compare
from .report import features, report

__all__ = ["app"]

WELCOME = """\
regrow trains neural networks that are sparse from the first step to the last.

  regrow demo                                   start here: trains a network dense and sparse, in a minute
  regrow doctor                                 checks that the native kernels are loaded
  regrow train lenet300-mnist --density 0.05    trains one run and writes its folder under runs/
  regrow report runs/...                        makes one page of your runs and measurements
  regrow list                                   lists the recipes and methods
  regrow --help                                 lists every command

To train your own model, use regrow.sparsify and regrow.SparseMomentum in Python; see docs/first-steps.md."""

app = typer.Typer(
    name="regrow",
    cls=Command,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(bench)

ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, metavar="N", help="Number of torch threads; default: the recipe's, else torch's."),
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
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; works anywhere on the line.")
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


LESS = "Advanced options"
DISTRIBUTED = "Processes and image files"


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name of a recipe; `regrow list` shows them.", show_default=False)
    ],
    method: Annotated[
        str, typer.Option(metavar="METHOD", help="Training method; see `regrow list` and `regrow settings METHOD`.")
    ] = "sparse-momentum",
    density: Annotated[
        float | None,
        typer.Option(metavar="D", help="Fraction of active weights, in (0, 1]; default: the recipe's, usually 0.05."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of epochs; the learning-rate schedule is scaled to fit."),
    ] = None,
    time_like: Annotated[
        str | None,
        typer.Option(
            "--time-like",
            metavar="dense",
            help="As many epochs as fit into the time of the recipe's dense training; measures a few steps first.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed for weights, topology, data order and data split.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting (see `regrow settings`); repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder; default: runs/RECIPE/METHOD-DENSITY-…")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue from the folder's checkpoint, bit for bit, or start a new run."),
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of data sets; default: $REGROW_DATA, else ~/.cache/regrow."),
    ] = None,
    threads: ThreadsOption = None,
    open_report: Annotated[
        bool, typer.Option("--open-report", help="Open a live page of the run in your browser.")
    ] = False,
    storage: Annotated[
        str, typer.Option(metavar="KIND", help="Weight storage: auto, masked or compressed.", rich_help_panel=LESS)
    ] = "auto",
    batch_size: Annotated[int | None, typer.Option(metavar="N", hidden=True)] = None,
    images: Annotated[int | None, typer.Option(metavar="N", hidden=True)] = None,
    warmup: Annotated[float | None, typer.Option(metavar="EPOCHS", hidden=True)] = None,
    precision: Annotated[str | None, typer.Option(metavar="KIND", hidden=True)] = None,
    share: Annotated[str | None, typer.Option(metavar="RULE", hidden=True)] = None,
    flops_budget: Annotated[float | None, typer.Option(metavar="SHARE", hidden=True)] = None,
    max_density: Annotated[float | None, typer.Option(metavar="SHARE", hidden=True)] = None,
    update_every: Annotated[int | None, typer.Option(metavar="STEPS", hidden=True)] = None,
    window: Annotated[str | None, typer.Option(metavar="STEPS", hidden=True)] = None,
    window_batch: Annotated[int | None, typer.Option(metavar="N", hidden=True)] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(metavar="S", help="Stop after the epoch in which this time is over.", rich_help_panel=LESS),
    ] = None,
    topology_every: Annotated[
        int | None,
        typer.Option(min=1, metavar="EPOCHS", help="Also write topology-epochN.npz this often.", rich_help_panel=LESS),
    ] = None,
    logger: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="Also log to tensorboard, csv or wandb.", rich_help_panel=LESS),
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="Use only deterministic algorithms.", rich_help_panel=LESS),
    ] = False,
    devices: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of processes on this machine.", rich_help_panel=DISTRIBUTED)
    ] = 1,
    nodes: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of machines.", rich_help_panel=DISTRIBUTED)
    ] = 1,
    strategy: Annotated[
        str, typer.Option(metavar="KIND", help="ddp, or auto: ddp with several processes.", rich_help_panel=DISTRIBUTED)
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Number of processes that read image files.", rich_help_panel=DISTRIBUTED
        ),
    ] = None,
    skip_corrupt: Annotated[
        bool,
        typer.Option("--skip-corrupt", help="Skip images that cannot be decoded.", rich_help_panel=DISTRIBUTED),
    ] = False,
) -> None:
    """Trains one recipe and writes a run folder: settings, metrics, topology, summary and checkpoint.

    Ctrl-C saves the run and prints the command that resumes it.

    \b
    Examples:
      regrow train lenet300-mnist --density 0.05 --epochs 20 --seed 3 --resume
      regrow train lenet300-mnist --method rigl --set update_every=100 --set stop_fraction=0.8
    """
    from regrow import ops
    from regrow.lab.recipes.methods import check_taken
    from regrow.lab.recipes.recipe import stored_name
    from regrow.lab.recipes.settings import make_settings
    from regrow.lab.training.loop import train as run
    from regrow.lab.training.progress import terminal_reporter
    from regrow.lab.training.time_like import fit_epochs, with_stored_epochs

    from .command import is_rank_0, resume_command
    from .live import report_beside
    from .tables import print_summary

    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "images": images,
        "warmup_epochs": warmup,
        "precision": precision,
        "share": share,
        "flops_budget": flops_budget,
        "max_density": max_density,
        "update_every": update_every,
        "window": window,
        "window_batch": window_batch,
    }
    overrides = [*(set_ or []), *(f"{key}={value}" for key, value in given.items() if value is not None)]
    named = [stored_name(assignment.partition("=")[0]) for assignment in overrides]
    refuse_twice("setting", named)
    settings = make_settings(recipe, method=method, density=density, storage=storage, seed=seed, overrides=overrides)
    if not resume:  # a run of `regrow compare` goes on with the settings that its methods share
        check_taken([method], named)
    folder = out or settings.folder()
    if time_like is not None:
        if time_like != "dense" or "epochs" in named or devices * nodes > 1:
            raise UsageError(
                "--time-like dense chooses the epochs of a run in one process; leave out --epochs, --devices and "
                "--nodes, or --time-like"
            )
        folder = out = out or folder.with_name(f"{folder.name}-time-of-dense")
        known = with_stored_epochs(settings, folder) if resume else None
        settings = known or fit_epochs(settings, data_dir=data_dir, threads=threads, say=typer.echo)
    how: dict[str, Any] = {
        "data_dir": data_dir,
        "threads": threads,
        "max_seconds": max_seconds,
        "topology_every": topology_every,
        "workers": workers,
        "skip_corrupt": skip_corrupt,
        "deterministic": deterministic,
        "logger": logger,
    }
    several: dict[str, Any] = {"devices": devices, "nodes": nodes, "strategy": strategy}
    ops.keep_pages()  # otherwise the allocator maps every large activation anew, dense or sparse
    beside = open_report and is_rank_0()
    page = report_beside(folder, folder.parent / f"{folder.name}.html") if beside else nullcontext()
    try:
        with page:
            summary = run(settings, out=folder, resume=resume, reporter=terminal_reporter(), **how, **several)
    except Interrupted as stop:
        raise Interrupted(f"{stop}; continue with: {resume_command(settings, out=out, **how, **several)}") from None
    if is_rank_0():
        print_summary(summary, folder)


app.command()(compare)
app.command()(report)
app.command()(features)


@app.command(name="list")
def list_() -> None:
    """Lists the recipes and the methods.

    \b
    Examples:
      regrow list
      regrow list | grep mnist
    """
    from .tables import print_recipes

    print_recipes()


@app.command()
def settings(
    method: Annotated[
        str | None,
        typer.Argument(metavar="[METHOD]", help="Name of a method; `regrow list` shows them.", show_default=False),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME", help="Show the defaults of this recipe.", show_default=False)
    ] = None,
) -> None:
    """Explains what `--set KEY=VALUE` can change: the settings of a method, or without one those of every recipe.

    \b
    Examples:
      regrow settings sparse-momentum
      regrow settings --recipe vgg16-d-cifar10
    """
    from .tables import print_settings

    print_settings(method, recipe)


@app.command()
def demo(
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of networks, topology and order of examples.")] = 0,
    density: Annotated[float, typer.Option(metavar="SHARE", help="Density of the sparse run, above 0 to 1.")] = 0.05,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the two run folders.")] = Path("runs/demo"),
    threads: ThreadsOption = None,
) -> None:
    """Trains a network dense and sparse, compares the two and writes a report page; a minute, no download.

    \b
    Examples:
      regrow demo
      regrow demo --density 0.02 --seed 1
    """
    from .demo import run_demo

    run_demo(density, seed, out, threads)


@app.command()
def summary(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Run folder, its checkpoint.pt, or a file from regrow.save or regrow.export.save_safetensors.",
            show_default=False,
        ),
    ],
) -> None:
    """Shows the layers of a saved network: shape, active weights, density, storage.

    \b
    Examples:
      regrow summary runs/demo/sparse-momentum-0.1-s0-44136fa3
      regrow summary digits.safetensors
    """
    from .summary import print_network

    print_network(path)


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Run folder, or its checkpoint.pt.", show_default=False)
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT", help="Format: dense, compact, safetensors, onnx or torch-sparse.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="PATH", help="File to write.", show_default=False)],
    optimizer: Annotated[
        bool, typer.Option("--optimizer", help="Also write the optimizer's state; safetensors only.")
    ] = False,
) -> None:
    """Writes a trained network for other programs. The file appears whole or not at all.

    dense is a plain state dict. compact is one without dead neurons and channels. safetensors is the sparse file that
    regrow.load reads, about five bytes a weight. onnx is checked in onnxruntime. torch-sparse has CSR and COO tensors.

    \b
    Examples:
      regrow export runs/demo/sparse-momentum-0.1-s0-44136fa3 --to safetensors --out digits.safetensors
      regrow export runs/demo/sparse-momentum-0.1-s0-44136fa3 --to onnx --out digits.onnx
    """
    from .export import export_checkpoint

    export_checkpoint(checkpoint, to, out, optimizer)


@app.command()
def doctor() -> None:
    """Shows what compressed layers run on here. Exits with code 1 and a remedy if the native kernels are not loaded.

    \b
    Examples:
      regrow doctor
      regrow doctor && regrow bench layers --cases "linear:1024->4096"
    """
    from .doctor import print_doctor

    print_doctor()
