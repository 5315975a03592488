"""How the time of a training step grows: with density, batch, width and threads, sparse beside dense, and where dense
wins.

Each point is a row of `regrow bench step` (uniform density, best of the dense kinds in fp32); one setting varies and
the others stay at density 0.05, batch 128, two threads.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --networks wrn-28-2 --densities 0.02,0.1,0.3 --plot docs/images/scaling.png
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from regrow.io.atomic import write_atomically
from regrow.lab.bench import step as bench_step
from regrow.lab.bench.step import FP32, Network
from regrow.lab.report.charts import BASE, by_label, log_axis, save

ROOT = Path(__file__).resolve().parents[1]
DENSITY, BATCH, THREADS = 0.05, 128, 2


def numbers(parse: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [parse(word) for word in text.split(",")]


def arguments() -> argparse.Namespace:
    description, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=numbers(str), default=["vgg16-d", "vgg16-d-half", "wrn-28-2", "alexnet-s"])
    parser.add_argument("--densities", type=numbers(float), default=[0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5])
    parser.add_argument("--batches", type=numbers(int), default=[16, 32, 64, 256, 512])
    parser.add_argument("--threads", type=numbers(int), default=[1])
    parser.add_argument("--kinds", type=numbers(str), default=["channels_last"], help=f"some of {', '.join(FP32)}")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contestant in a point (default 1)")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "scaling.json")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "images" / "scaling.png")
    return parser.parse_args()


def points(chosen: argparse.Namespace) -> list[tuple[Network, int]]:
    """Networks with their threads: all densities of each network, then batches and threads of the first one."""
    found = [(Network(name, density, BATCH), THREADS) for name in chosen.networks for density in chosen.densities]
    first = chosen.networks[0]
    found += [(Network(first, DENSITY, batch), THREADS) for batch in chosen.batches]
    return found + [(Network(first, DENSITY, BATCH), threads) for threads in chosen.threads]


def crossing(rows: Sequence[dict[str, Any]]) -> float | None:
    """The density from which dense is faster, between the measured ones by log-log; None where sparse always is, the
    lowest where dense always is."""
    rows = sorted(rows, key=lambda row: row["density"])
    if rows[0]["ratio_best_fp32"] < 1:
        return rows[0]["density"]
    for low, high in itertools.pairwise(rows):
        a, b = math.log(low["ratio_best_fp32"]), math.log(high["ratio_best_fp32"])
        if a >= 0 > b:
            x, y = math.log(low["density"]), math.log(high["density"])
            return math.exp(x + (y - x) * a / (a - b))
    return None


def dense_ms(row: dict[str, Any]) -> float:
    return row["dense_ms"][row["best_fp32"]]


def varied(rows: Sequence[dict[str, Any]], name: str, model: str, threads: int = THREADS) -> list[dict[str, Any]]:
    """Rows of a network in which only `name` differs from the standard setting, by that."""
    standard = {"density": DENSITY, "batch": BATCH, "threads": threads}
    others = [key for key in standard if key != name]
    same = [
        row
        for row in rows
        if row["model"] == model and all(math.isclose(row[key], standard[key], rel_tol=0.02) for key in others)
    ]
    return sorted(same, key=lambda row: row[name])


def drawn(rows: Sequence[dict[str, Any]], label: str, panel: str) -> list[dict[str, Any]]:
    """Two points for each row, sparse and dense."""
    about = [{"panel": panel, "label": label, **{key: row[key] for key in ("density", "batch")}} for row in rows]
    sparse = [{"ms": row["sparse_ms"], "ratio": row["ratio_best_fp32"], "kind": "sparse"} for row in rows]
    dense = [{"ms": dense_ms(row), "ratio": 1.0, "kind": "dense"} for row in rows]
    return [{**one, **other} for points in (sparse, dense) for one, other in zip(about, points, strict=True)]


def panel(rows: Sequence[dict[str, Any]], x: str, y: str, y_title: str, title: str, width: int) -> Any:
    """Lines of sparse networks, and dashed ones of dense networks, on logarithmic axes."""
    x_title = {"density": "density of the weights", "batch": "batch"}[x]
    ticks = sorted({float(f"{row[x]:.3g}") for row in rows})
    base = BASE.encode(
        alt.X(f"{x}:Q", **log_axis(x_title, ticks, ticks)),
        alt.Y(f"{y}:Q", **log_axis(y_title, [row[y] for row in rows])),
        by_label([row["label"] for row in rows])["color"],
    ).transform_filter(f"datum.panel == '{rows[0]['panel']}'")
    sparse, dense = (base.transform_filter(f"datum.kind == '{kind}'") for kind in ("sparse", "dense"))
    if y == "ratio":
        dashed = [BASE.mark_rule(strokeDash=[5, 3]).encode(y=alt.datum(1))]
    else:
        dashed = [
            dense.mark_line(strokeDash=[5, 3], strokeWidth=1.5),
            dense.mark_point(size=30, fill="white", opacity=1, strokeWidth=1.3),
        ]
    layers = [*dashed, sparse.mark_line(strokeWidth=1.7), sparse.mark_point(size=45, filled=True, opacity=1)]
    return alt.layer(*layers).properties(title=title, width=width, height=240)


def draw(rows: Sequence[dict[str, Any]], networks: Sequence[str], file: Path) -> None:
    """Steps and ratios against density, a colour for each network; below them steps against the batch."""
    by_density = [row for name in networks for row in drawn(varied(rows, "density", name), name, "density")]
    by_batch = [
        row
        for threads in sorted({row["threads"] for row in rows})
        for row in drawn(varied(rows, "batch", networks[0], threads), f"{threads} thread{'s' * (threads > 1)}", "batch")
    ]
    step, half = "training step in ms", 250
    above = panel(by_density, "density", "ms", step, f"Batch {BATCH}, {THREADS} threads", half) | panel(
        by_density, "density", "ratio", "times as fast as dense", "Below the line dense wins", half
    )
    below = panel(by_batch, "batch", "ms", step, f"{networks[0]}, density {DENSITY:g}", 2 * half + 80)
    chart = (above & below).resolve_scale(color="independent")
    title = "How the time of a training step grows"
    save(file, chart, [*by_density, *by_batch], title, "Solid: sparse. Dashed: the best dense step in fp32.")


def main() -> int:
    chosen = arguments()
    todo, rows = points(chosen), []
    command = shlex.join(["python", "benchmarks/scaling.py", *sys.argv[1:]])
    for number, (network, threads) in enumerate(todo):
        label = f"{network.model} {network.density:g}, batch {network.batch}, {threads} threads"
        print(f"{number + 1}/{len(todo)}  {label}: ", end="", flush=True)
        rows += bench_step.run([network], threads, chosen.kinds, chosen.seconds, memory=False)
        print(f"{rows[-1]['sparse_ms']:.0f} ms, {rows[-1]['ratio_best_fp32']:.2f} times as fast", flush=True)
        measured = dict.fromkeys(row["model"] for row in rows)
        crossings = {name: crossing(varied(rows, "density", name)) for name in measured}
        with write_atomically(chosen.results) as temporary:
            content = {"command": command, "dense_wins_from": crossings, "rows": rows}
            Path(temporary).write_text(json.dumps(content, indent=1) + "\n")
    draw(rows, chosen.networks, chosen.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
