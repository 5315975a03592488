"""How freed weights are shared among layers: error, FLOP density and time of redistribution rules, over seeds.

VGG16-D of half the width on half of CIFAR-10's training images, 12 epochs, one topology update an epoch: enough to
choose. Arms with "@" train for so many epochs instead, to compare a rule with cheap epochs at equal time.
Every rule has the prune rate and the entry of grown weights that a short schedule bears (docs/decisions/0015); "-paper"
has the paper's, "-cosine" a learning rate without drops, "-first" a dense first layer, "-ends" a dense last one too.
Every cell (rule, seed) is one run of a grid (see grid.py): stop it and go on as you like.

    python benchmarks/share_rules.py
    python benchmarks/share_rules.py --arms none-5 momentum-5 --seeds 0 --threads 2 --jobs 1
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import grid
from grid import Cell

RECIPE = "vgg16-d-half-cifar10"
SETUP = ("--images", "22500", "--epochs", "12", "--update-every", "176", "--window", "10", "--storage", "compressed")
GENTLE = ("--set", "prune_rate=0.2", "--set", "inherit_momentum=false")
COSINE = ("--set", "lr_schedule=cosine")
ENDS = ("--set", "dense=conv1_1,fc3")
ARMS: dict[str, tuple[str, ...]] = {
    "static-5": ("--density", "0.05", "--method", "static"),
    "none-5": ("--density", "0.05", "--share", "none", *GENTLE),
    "none-5@24": ("--density", "0.05", "--share", "none", "--epochs", "24", *GENTLE),
    "none-5@36": ("--density", "0.05", "--share", "none", "--epochs", "36", *GENTLE),
    "momentum-5": ("--density", "0.05", "--share", "momentum", *GENTLE),
    "budget10-5": ("--density", "0.05", "--flops-budget", "0.1", *GENTLE),
    "budget6-5": ("--density", "0.05", "--flops-budget", "0.06", *GENTLE),
    "per-flop-5": ("--density", "0.05", "--share", "momentum-per-flop", *GENTLE),
    "budget5-10": ("--density", "0.1", "--flops-budget", "0.05", *GENTLE),
    "none-5-cosine": ("--density", "0.05", "--share", "none", *GENTLE, *COSINE),
    "budget10-5-cosine": ("--density", "0.05", "--flops-budget", "0.1", *GENTLE, *COSINE),
    "static-5-first": ("--density", "0.05", "--method", "static", "--set", "dense=conv1_1"),
    "none-5-first": ("--density", "0.05", "--share", "none", *GENTLE, "--set", "dense=conv1_1"),
    "static-5-ends": ("--density", "0.05", "--method", "static", *ENDS),
    "none-5-ends": ("--density", "0.05", "--share", "none", *GENTLE, *ENDS),
    "none-5-ends@24": ("--density", "0.05", "--share", "none", "--epochs", "24", *GENTLE, *ENDS),
    "none-5-ends-cosine": ("--density", "0.05", "--share", "none", *GENTLE, *ENDS, *COSINE),
    "static-erk-5": ("--density", "0.05", "--method", "static", "--set", "distribution=erk"),
    "static-erk-2.5": ("--density", "0.025", "--method", "static", "--set", "distribution=erk"),
    "none-erk-2.5": ("--density", "0.025", "--share", "none", "--set", "distribution=erk", *GENTLE),
    "momentum-5-paper": ("--density", "0.05", "--share", "momentum"),
    "none-5-paper": ("--density", "0.05", "--share", "none"),
    "none-10": ("--density", "0.1", "--share", "none", *GENTLE),
    "budget10-10": ("--density", "0.1", "--flops-budget", "0.1", *GENTLE),
    "budget10-20": ("--density", "0.2", "--flops-budget", "0.1", *GENTLE),
    "momentum-10": ("--density", "0.1", "--share", "momentum", *GENTLE),
    "none-20": ("--density", "0.2", "--share", "none", *GENTLE),
    "dense": ("--method", "dense"),
}
COLUMNS = ("test_error", "validation_error", "flop_density_mean", "flop_density_end", "train_seconds")


def arguments() -> argparse.Namespace:
    description, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    grid.add_arguments(parser)
    return parser.parse_args()


def make_cells(chosen: argparse.Namespace) -> list[Cell]:
    """Seed by seed, so that every rule has a first figure early."""
    common = grid.common_words(chosen)
    return [
        Cell(
            f"{arm} seed {seed}",
            chosen.runs / RECIPE / f"{arm}-s{seed}",
            (RECIPE, *SETUP, *ARMS[arm], "--seed", str(seed), *common),
        )
        for seed in chosen.seeds
        for arm in chosen.arms
    ]


def contents(cells: list[Cell]) -> dict[str, Any]:
    """Mean and standard error of each figure, by arm."""
    table = []
    for arm in dict.fromkeys(cell.name.split(" seed ")[0] for cell in cells):
        runs = [run for cell in cells if cell.name.startswith(f"{arm} seed ") and (run := cell.summary)]
        if runs:
            figures = {name: grid.mean_and_error([run[name] for run in runs]) for name in COLUMNS}
            table.append({"arm": arm, "seeds": len(runs), **figures})
    return {"table": table}


def show(content: dict[str, Any]) -> None:
    print(f"{'rule':<14}{'seeds':>6}{'validation':>16}{'test':>16}{'FLOPs, mean':>13}{'end':>8}{'seconds':>9}")
    for row in content["table"]:
        validation, test = (plus_minus(*row[name]) for name in ("validation_error", "test_error"))
        mean, end, seconds = (row[name][0] for name in COLUMNS[2:])
        print(f"{row['arm']:<14}{row['seeds']:>6}{validation:>16}{test:>16}{mean:>13.3f}{end:>8.3f}{seconds:>9.0f}")


def plus_minus(mean: float, error: float | None) -> str:
    return f"{mean:.2f}" if error is None else f"{mean:.2f} ± {error:.2f}"


def main() -> int:
    chosen = arguments()
    cells = make_cells(chosen)
    file = chosen.results / "share_rules.json"
    grid.bring_back(file, cells)
    return grid.run(cells, chosen.jobs, file, lambda rows: contents(cells), show)


if __name__ == "__main__":
    sys.exit(main())
