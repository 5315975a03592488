"""Test error of the MNIST recipes against density, over seeds, beside the published figures.

Every cell (density, seed) is one `regrow train` in a process of its own. Finished cells are kept, stopped ones go on
from their checkpoint, failed ones are shown and do not stop the rest: run the same command again until the table is
whole. results/<recipe>.json is written anew after every cell.

    python benchmarks/mnist_table.py lenet300        # dense, 10, 5, 2, 1 %, seeds 0-4: 25 runs
    python benchmarks/mnist_table.py lenet5          # dense, 5, 1 %, seeds 0-2: 9 runs
    python benchmarks/mnist_table.py lenet300 --seeds 0 --epochs 2 --results /tmp/try --runs /tmp/try
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from regrow.files import write_atomically
from regrow.recipes.progress import clock

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = {"lenet300-mnist": ROOT / "results" / "published" / "mnist_lenet300.csv"}
PRESETS = {
    "lenet300": ("lenet300-mnist", (1.0, 0.10, 0.05, 0.02, 0.01), range(5)),
    "lenet5": ("lenet5-mnist", (1.0, 0.05, 0.01), range(3)),
}
INTERRUPTED = 130


@dataclass(frozen=True)
class Cell:
    """One run of the grid; density 1 is the dense network."""

    recipe: str
    density: float
    seed: int
    storage: str
    folder: Path
    options: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        sparse = ["--density", str(self.density), "--storage", self.storage]
        method = ["--method", "dense"] if self.density == 1 else sparse
        words = ["train", self.recipe, *method, "--seed", str(self.seed), "--out", str(self.folder), "--resume"]
        return [sys.executable, "-m", "regrow.recipes", *words, *self.options]

    @property
    def summary(self) -> dict[str, Any] | None:
        file = self.folder / "summary.json"
        return json.loads(file.read_text()) if file.exists() else None

    def __str__(self) -> str:
        return f"{self.recipe} {'dense' if self.density == 1 else f'{self.density:g}'} seed {self.seed}"


@dataclass
class Grid:
    """Runs cells side by side, and ends their processes when it is told to end."""

    cells: Sequence[Cell]
    jobs: int
    stopped: bool = False
    processes: set[subprocess.Popen[bytes]] = field(default_factory=set)

    def run(self, done: Any) -> None:
        """Calls done(cell, exit code, seconds) in this thread as cells end."""
        signal.signal(signal.SIGINT, self.stop)
        signal.signal(signal.SIGTERM, self.stop)
        with ThreadPoolExecutor(self.jobs) as pool:
            for future in as_completed([pool.submit(self._run_cell, cell) for cell in self.cells]):
                done(*future.result())

    def stop(self, *_: Any) -> None:
        """Each run finishes its step and saves itself."""
        self.stopped = True
        for process in list(self.processes):
            process.send_signal(signal.SIGTERM)

    def _run_cell(self, cell: Cell) -> tuple[Cell, int, float]:
        began = time.monotonic()
        if self.stopped:
            return cell, INTERRUPTED, 0.0
        cell.folder.parent.mkdir(parents=True, exist_ok=True)
        with open(log_file(cell), "ab") as log:
            # in a session of its own, so that Ctrl-C reaches it once, through stop()
            process = subprocess.Popen(cell.command, stdout=log, stderr=log, start_new_session=True)
            self.processes.add(process)
            code = process.wait()
        self.processes.discard(process)
        return cell, code, time.monotonic() - began


def log_file(cell: Cell) -> Path:
    """Where a cell's run prints to."""
    return cell.folder.with_name(cell.folder.name + ".log")


def published_figures(recipe: str) -> dict[tuple[str, float], tuple[float, float]]:
    """(method, density) -> (error, standard error), from the table in results/published; empty where there is none."""
    file = PUBLISHED.get(recipe)
    if file is None:
        return {}
    rows = csv.DictReader(line for line in file.read_text().splitlines() if not line.startswith("#"))
    return {(r["method"], round(float(r["density"]) / 100, 6)): (float(r["error"]), float(r["se"])) for r in rows}


def citation(recipe: str) -> str | None:
    """Where the published figures are from: the comment at the head of their table."""
    file = PUBLISHED.get(recipe)
    if file is None:
        return None
    return " ".join(line.lstrip("# ") for line in file.read_text().splitlines() if line.startswith("#"))


def aggregate(rows: Sequence[dict[str, Any]], recipe: str) -> list[dict[str, Any]]:
    """Mean and standard error per density, beside the published figures."""
    published = published_figures(recipe)
    table = []
    for method, density in sorted({(r["method"], r["density"]) for r in rows}, key=lambda key: -key[1]):
        errors = [r["test_error"] for r in rows if (r["method"], r["density"]) == (method, density)]
        error, se = published.get((method, density), (None, None))
        table.append(
            {
                "method": method,
                "density": density,
                "seeds": len(errors),
                "test_error": mean(errors),
                "se": stdev(errors) / len(errors) ** 0.5 if len(errors) > 1 else None,
                "published": error,
                "published_se": se,
            }
        )
    return table


def write_results(
    file: Path, recipe: str, command: str, cells: Sequence[Cell], failed: Sequence[str]
) -> list[dict[str, Any]]:
    """The result file, from the summaries that exist by now; the aggregated table."""
    rows = [summary for cell in cells if (summary := cell.summary)]
    table = aggregate(rows, recipe)
    content = {
        "command": command,
        "published": citation(recipe),
        "table": table,
        "missing": [str(cell) for cell in cells if not cell.summary],
        "failed": list(failed),
        "rows": rows,
    }
    with write_atomically(file) as temporary:
        Path(temporary).write_text(json.dumps(content, indent=1) + "\n")
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
    parser.add_argument("--storage", default="masked", help="as for regrow train (default masked)")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (default 2)")
    parser.add_argument("--threads", type=int, default=1, help="of each run (default 1)")
    parser.add_argument("--data-dir", help="as for regrow train")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run folders go (default runs)")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="where the result file goes")
    return parser.parse_args()


def make_cells(chosen: argparse.Namespace) -> list[Cell]:
    """Seed by seed, so that every density has a first figure early."""
    recipe, densities, seeds = PRESETS[chosen.preset]
    options = ["--threads", str(chosen.threads)]
    options += ["--epochs", str(chosen.epochs)] if chosen.epochs else []
    options += ["--data-dir", chosen.data_dir] if chosen.data_dir else []
    kind = f"e{chosen.epochs}-" if chosen.epochs else ""
    kind += "" if chosen.storage == "masked" else f"{chosen.storage}-"
    return [
        Cell(
            recipe,
            density,
            seed,
            chosen.storage,
            chosen.runs / recipe / f"table-{kind}{density:g}-s{seed}",
            tuple(options),
        )
        for seed in chosen.seeds or seeds
        for density in chosen.densities or densities
    ]


def main() -> int:
    chosen = arguments()
    cells = make_cells(chosen)
    recipe = cells[0].recipe
    file = chosen.results / f"{recipe}{'' if chosen.storage == 'masked' else f'-{chosen.storage}'}.json"
    command = shlex.join(["python", os.path.relpath(__file__, ROOT), *sys.argv[1:]])
    todo = [cell for cell in cells if cell.summary is None]
    grid, failed, began = Grid(todo, chosen.jobs), [], time.monotonic()
    print(
        f"{len(cells)} runs, {len(cells) - len(todo)} finished before, {chosen.jobs} at a time; results in {file}",
        flush=True,
    )
    finished = 0

    def done(cell: Cell, code: int, seconds: float) -> None:
        nonlocal finished
        finished += 1
        summary = cell.summary
        if summary:
            outcome = f"test error {summary['test_error']:.2f} %"
        elif grid.stopped and code in (INTERRUPTED, -signal.SIGTERM):  # the latter: before its training began
            outcome = "stopped"
        else:
            outcome = f"FAILED with exit code {code}, see {log_file(cell)}"
            failed.append(f"{cell}: {outcome}")
        write_results(file, recipe, command, cells, failed)
        left = (time.monotonic() - began) / finished * (len(todo) - finished)
        print(f"[{finished}/{len(todo)}] {cell}: {outcome}, {clock(seconds)}; about {clock(left)} left", flush=True)

    grid.run(done)
    show(write_results(file, recipe, command, cells, failed))
    for line in failed:
        print(line)
    if grid.stopped:
        print("stopped; the same command goes on where it was")
        return INTERRUPTED
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
