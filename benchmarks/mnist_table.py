"""Test error of the MNIST recipes against density, over seeds, beside the published figures.

Every cell (density, seed) is one run of a grid (see grid.py): stop it and go on as you like.

    python benchmarks/mnist_table.py lenet300        # dense, 10, 5, 2, 1 %, seeds 0-4: 25 runs
    python benchmarks/mnist_table.py lenet5          # dense, 5, 1 %, seeds 0-2: 9 runs
    python benchmarks/mnist_table.py lenet300 --seeds 0 --epochs 2 --results /tmp/try --runs /tmp/try
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import grid
from grid import Cell
from regrow.lab.report.published import PublishedPoint, published_points, sources

METHODS = ("dense", "sparse-momentum")
PRESETS = {
    "lenet300": ("lenet300-mnist", (1.0, 0.10, 0.05, 0.02, 0.01), range(5)),
    "lenet5": ("lenet5-mnist", (1.0, 0.05, 0.01), range(3)),
}


def published_figures(recipe: str) -> dict[tuple[str, float], PublishedPoint]:
    """(method, density) -> the published figure; empty where there is none."""
    points = [point for point in published_points(recipe) if point.method in METHODS and not point.settings]
    return {(point.method, point.density): point for point in points}


def aggregate(rows: Sequence[dict[str, Any]], recipe: str) -> list[dict[str, Any]]:
    """Mean and standard error per density, beside the published figures."""
    published = published_figures(recipe)
    table = []
    for method, density in sorted({(r["method"], r["density"]) for r in rows}, key=lambda key: -key[1]):
        errors = [r["test_error"] for r in rows if (r["method"], r["density"]) == (method, density)]
        mean, deviation = grid.mean_and_error(errors)
        point = published.get((method, density))
        table.append(
            {
                "method": method,
                "density": density,
                "seeds": len(errors),
                "test_error": mean,
                "se": deviation,
                "published": point and point.error,
                "published_se": point and point.se,
            }
        )
    return table


def show(table: Sequence[dict[str, Any]]) -> None:
    """The aggregated table, in plain text."""
    if not table:
        return
    print(f"{'method':<16}{'density':>8}{'seeds':>6}{'test error %':>20}{'published %':>18}")
    for row in table:
        ours = f"{row['test_error']:.3f} ± {row['se']:.3f}" if row["se"] is not None else f"{row['test_error']:.3f}"
        theirs = f"{row['published']:.3f} ± {row['published_se']:.3f}" if row["published"] is not None else "–"
        print(f"{row['method']:<16}{row['density']:>8g}{row['seeds']:>6}{ours:>20}{theirs:>18}")


def arguments() -> argparse.Namespace:
    description, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--densities", type=float, nargs="+", help="1 is dense; default: the preset's")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: the preset's")
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--storage", default="masked", help="weight storage (default masked)")
    grid.add_arguments(parser)
    return parser.parse_args()


def make_cells(chosen: argparse.Namespace) -> list[Cell]:
    """Seed by seed, so that every density has a first figure early."""
    recipe, densities, seeds = PRESETS[chosen.preset]
    common = grid.common_words(chosen)
    common += ["--epochs", str(chosen.epochs)] if chosen.epochs else []
    kind = f"e{chosen.epochs}-" if chosen.epochs else ""
    kind += "" if chosen.storage == "masked" else f"{chosen.storage}-"
    cells = []
    for seed in chosen.seeds or seeds:
        for density in chosen.densities or densities:
            sparse = ["--density", str(density), "--storage", chosen.storage]
            method = ["--method", "dense"] if density == 1 else sparse
            name = f"{recipe} {'dense' if density == 1 else f'{density:g}'} seed {seed}"
            folder = chosen.runs / recipe / f"table-{kind}{density:g}-s{seed}"
            cells.append(Cell(name, folder, (recipe, *method, "--seed", str(seed), *common)))
    return cells


def main() -> int:
    chosen = arguments()
    recipe = PRESETS[chosen.preset][0]
    file = chosen.results / f"{recipe}{'' if chosen.storage == 'masked' else f'-{chosen.storage}'}.json"

    def contents(rows: list[dict[str, Any]]) -> dict[str, Any]:
        citation = "; ".join(sources(published_figures(recipe).values())) or None
        return {"published": citation, "table": aggregate(rows, recipe)}

    return grid.run(make_cells(chosen), chosen.jobs, file, contents, lambda content: show(content["table"]))


if __name__ == "__main__":
    sys.exit(main())
