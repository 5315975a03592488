"""Wall time and peak memory of a whole run: dense, masked and compressed, one after the other on a quiet machine.

Every run is one `regrow train` in a process of its own (see grid.py). The errors of the storages over seeds are in the
tables of mnist_table.py.

    python benchmarks/storages.py
    python benchmarks/storages.py --recipe vgg16-d-half-cifar10 --epochs 1 --threads 2
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import grid
from grid import Cell

WAYS = {
    "dense": ("--method", "dense"),
    "masked": ("--storage", "masked"),
    "compressed": ("--storage", "compressed"),
}
FIGURES = ("train_seconds", "validation_seconds", "seconds_per_step", "topology_seconds", "peak_rss_mb", "test_error")


def arguments() -> argparse.Namespace:
    description, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="lenet300-mnist")
    parser.add_argument("--density", default="0.05", help="density of the sparse runs (default 0.05)")
    parser.add_argument("--epochs", help="default: the recipe's")
    grid.add_arguments(parser)
    parser.set_defaults(jobs=1)
    return parser.parse_args()


def make_cells(chosen: argparse.Namespace) -> list[Cell]:
    common = [*grid.common_words(chosen), *(["--epochs", chosen.epochs] if chosen.epochs else [])]
    kind = f"e{chosen.epochs}-" if chosen.epochs else ""
    return [
        Cell(
            f"{chosen.recipe} {way}",
            chosen.runs / chosen.recipe / f"storages-{kind}{way}",
            (chosen.recipe, *words, *(() if way == "dense" else ("--density", chosen.density)), *common),
        )
        for way, words in WAYS.items()
    ]


def contents(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of each way, and times as shares of dense."""
    table = [{"storage": row["storage"], **{name: row[name] for name in FIGURES}} for row in rows]
    dense = next((row for row in table if row["storage"] == "dense"), None)
    for row in table if dense else ():
        row["time_of_dense"] = row["train_seconds"] / dense["train_seconds"]
    return {"table": table}


def show(content: dict[str, Any]) -> None:
    print(f"{'storage':<12}{'seconds':>9}{'ms a step':>11}{'updates, s':>12}{'peak MB':>9}{'test error':>12}")
    for row in content["table"]:
        times = f"{row['train_seconds']:>9.1f}{1000 * row['seconds_per_step']:>11.3f}{row['topology_seconds']:>12.2f}"
        print(f"{row['storage']:<12}{times}{row['peak_rss_mb']:>9.0f}{row['test_error']:>12.2f}")


def main() -> int:
    chosen = arguments()
    file = chosen.results / f"storages-{chosen.recipe}.json"
    return grid.run(make_cells(chosen), chosen.jobs, file, contents, show)


if __name__ == "__main__":
    sys.exit(main())
