"""Error against the seconds of training: sparse networks beside a dense one, one recipe, schedules of their own.

An arm is a way to train: RULE-DENSITY@EPOCHS, dense@EPOCHS, or dense-bf16@EPOCHS (bfloat16 autocast; timed in float32
where the processor that measured the epochs computes none). RULE is a redistribution rule, static, or budgetF: by
momentum within the FLOP density F. Every arm is one run of a grid (see grid.py).

Two clocks are kept for each epoch. The run's own, as it was recorded; it counts whatever else the machine did. And
epochs times the seconds of such an epoch as `regrow bench run` measures them, sparse and dense in turn in one process
(--epochs-from): that is the one that is drawn and compared, where it is there.

    python benchmarks/time_to_accuracy.py vgg16-d --arms dense-bf16@20 none-0.05@20 momentum-0.05@20 --threads 2
    python benchmarks/time_to_accuracy.py vgg16-d --arms none-0.05@40 --epochs-from results/run.json --plot-only
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import altair as alt

import grid
from grid import Cell
from regrow.lab.report.charts import BASE, by_label, log_axis, save

CURVE = ("epoch", "validation_error", "flop_density", "train_seconds", "validation_seconds")
RULE = r"(?P<rule>dense|dense-bf16|static|momentum|none|momentum-per-flop|budget(?P<budget>[\d.]+))"
ARM = re.compile(RULE + r"(-(?P<density>0\.\d+))?(?P<settings>(,\w+=[^,@]+)*)@(?P<epochs>\d+)")


@dataclass(frozen=True)
class Arm:
    """One way to train, read from its name."""

    name: str
    rule: str
    density: float
    budget: float | None
    settings: tuple[str, ...]
    epochs: int

    @classmethod
    def parse(cls, name: str) -> Arm:
        match = ARM.fullmatch(name)
        if not match or match["rule"].startswith("dense") == bool(match["density"]):
            raise argparse.ArgumentTypeError(f"{name!r} is no arm, such as dense@20, none-0.05@40 or budget0.1-0.05@20")
        budget = float(match["budget"]) if match["budget"] else None
        settings = tuple(match["settings"].split(",")[1:])
        return cls(name, match["rule"], float(match["density"] or 1), budget, settings, int(match["epochs"]))

    @property
    def is_dense(self) -> bool:
        return self.rule.startswith("dense")

    @property
    def words(self) -> tuple[str, ...]:
        """Returns what `regrow train` is told."""
        common = ("--epochs", str(self.epochs), *(word for one in self.settings for word in ("--set", one)))
        if self.is_dense:
            precision = "bf16-mixed" if self.rule == "dense-bf16" else "32-true"
            return "--method", "dense", "--precision", precision, *common
        sparse = ("--density", str(self.density), "--storage", "compressed", *common)
        if self.rule == "static":
            return "--method", "static", *sparse
        rule = ("--share", self.rule) if self.budget is None else ("--flops-budget", str(self.budget))
        return *rule, *sparse

    def rows(self, measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of `regrow bench run` that timed such an epoch: of this rule, density and dense layers, however long
        the topology was trained. A dense epoch is in each."""
        return measured if self.is_dense else [row for row in measured if self._made(row)][:1]

    def epoch_seconds(self, row: dict[str, Any]) -> float:
        """Of such an epoch in a row; in bfloat16 where the processor computes it, else in fp32."""
        if not self.is_dense:
            return row["sparse_epoch_s"]
        return row["dense_epoch_s"][(self.rule == "dense-bf16" and row["best_bf16"]) or row["best_fp32"]]

    def _made(self, row: dict[str, Any]) -> bool:
        """Returns whether a row's topology is of this rule, density, distribution and dense layers."""
        about = row["topology"] or {}
        dense = ",".join(name.removesuffix(".weight") for name in row.get("dense", ()))
        made = (about.get("density"), about.get("distribution", "uniform"), dense)
        if made != (self.density, self.setting("distribution", "uniform"), self.setting("dense", "")):
            return False
        if self.rule == "static":
            return about["method"] == "static"
        share = "momentum" if self.budget else self.rule
        return (about["method"], about["share"], about["flops_budget"]) == ("sparse-momentum", share, self.budget)

    def setting(self, name: str, default: str) -> str:
        """As the arm gives it, or the default."""
        given = [word.removeprefix(f"{name}=") for word in self.settings if word.startswith(f"{name}=")]
        return given[-1] if given else default


def arguments() -> argparse.Namespace:
    description, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a network that has a recipe for CIFAR-10")
    parser.add_argument("--arms", type=Arm.parse, nargs="+", required=True, metavar="ARM")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--epochs-from", type=Path, nargs="+", default=[], metavar="FILE", help="rows of regrow bench run --json"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves there")
    parser.add_argument("--plot-only", action="store_true", help="train nothing; use the runs that are finished")
    grid.add_arguments(parser)
    return parser.parse_args()


def make_cells(chosen: argparse.Namespace) -> dict[str, Cell]:
    recipe, common = f"{chosen.model}-cifar10", grid.common_words(chosen)
    cells = {}
    for seed in chosen.seeds:
        for arm in chosen.arms:
            folder = chosen.runs / recipe / f"time-{arm.name}-s{seed}"
            words = (recipe, *arm.words, "--seed", str(seed), *common)
            cells[f"{arm.name} seed {seed}"] = Cell(f"{arm.name} seed {seed}", folder, words)
    return cells


def known_curves(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The curves that the result file has, by cell."""
    arms = json.loads(file.read_text())["arms"] if file.exists() else []
    return {f"{row['arm']} seed {row['seed']}": row["curve"] for row in arms}


def contents(chosen: argparse.Namespace, cells: dict[str, Cell], curves: dict[str, list]) -> dict[str, Any]:
    """Returns what is known of each arm and seed: its curve, its errors, its two clocks.

    Args:
        curves: of runs that have no folder on this machine, by cell.
    """
    every = [row for file in chosen.epochs_from for row in json.loads(file.read_text())]
    measured = [row for row in every if row["model"] == chosen.model]
    arms = []
    for seed in chosen.seeds:
        for arm in chosen.arms:
            cell = cells[f"{arm.name} seed {seed}"]
            if not (summary := cell.summary):
                continue
            metrics = cell.folder / "metrics.jsonl"
            lines = (
                [json.loads(line) for line in metrics.read_text().splitlines()]
                if metrics.exists()
                else curves[cell.name]
            )
            rows = arm.rows(measured)
            epoch = mean(arm.epoch_seconds(row) for row in rows) if rows else None
            arms.append(
                {
                    "arm": arm.name,
                    "seed": seed,
                    "density": summary["density"],
                    "flop_density": summary["flop_density_mean"],
                    "epochs": summary["epochs"],
                    "test_error": summary["test_error"],
                    "validation_error": summary["validation_error"],
                    "recorded_seconds": summary["train_seconds"] + summary["validation_seconds"],
                    "epoch_seconds": epoch,
                    "seconds": None if epoch is None else epoch * summary["epochs"],
                    "dense_epoch_seconds": {
                        kind: mean(row["dense_epoch_s"][row[f"best_{kind}"]] for row in rows)
                        for kind in ("fp32", "bf16")
                        if rows and rows[0][f"best_{kind}"]
                    },
                    "threads": summary["threads"],
                    "curve": [{name: line[name] for name in CURVE} for line in lines],
                }
            )
    return {"model": chosen.model, "epochs_from": list(map(str, chosen.epochs_from)), "arms": arms}


def show(content: dict[str, Any]) -> None:
    """A line an arm, with the time of the dense ones over its own."""
    dense = {row["arm"]: row for row in content["arms"] if row["arm"].startswith("dense")}
    print(f"{'arm':<24}{'test error':>11}{'FLOPs':>7}{'s an epoch':>12}{'seconds':>9}", *(f"{k:>12}" for k in dense))
    for row in content["arms"]:
        ratios = [row["seconds"] and other["seconds"] and other["seconds"] / row["seconds"] for other in dense.values()]
        print(
            f"{row['arm']:<24}{row['test_error']:>11.2f}{row['flop_density']:>7.3f}"
            f"{row['epoch_seconds'] or 0:>12.1f}{row['seconds'] or 0:>9.0f}",
            *(f"{ratio or 0:>11.2f}x" for ratio in ratios),
        )


def draw(content: dict[str, Any], file: Path) -> None:
    """Validation error against minutes; the point at the end is the test error."""
    rows = []
    for arm in content["arms"]:
        label = f"{arm['arm']}: {arm['test_error']:.2f} %"
        for line in arm["curve"]:
            seconds = line["train_seconds"] + line["validation_seconds"]
            if arm["epoch_seconds"]:
                seconds = arm["epoch_seconds"] * line["epoch"]
            rows.append({"label": label, "minutes": seconds / 60, "error": line["validation_error"]})
        rows.append({**rows[-1], "error": arm["test_error"], "end": True})
    looks = by_label([row["label"] for row in rows])
    base = BASE.encode(
        alt.X("minutes:Q", title="minutes of training and validation", axis=alt.Axis(tickCount=8)),
        alt.Y("error:Q", **log_axis("validation error in %", [row["error"] for row in rows])),
        looks["color"],
    )
    lines = base.transform_filter("!datum.end").mark_line(strokeWidth=1.7).encode(looks["strokeDash"])
    ends = base.transform_filter("datum.end").mark_point(size=70, filled=True, opacity=1)
    title = f"Error against time: {content['model']} on CIFAR-10"
    save(file, lines + ends, rows, title, "Lines: validation error. Points and numbers below: test error at the end.")


def main() -> int:
    chosen = arguments()
    cells = make_cells(chosen)
    file = chosen.results / f"time_to_accuracy_{chosen.model}.json"
    curves = known_curves(file)
    grid.bring_back(file, list(cells.values()))
    todo = [cell for cell in cells.values() if cell.summary or not chosen.plot_only]
    code = grid.run(todo, chosen.jobs, file, lambda rows: contents(chosen, cells, curves), show)
    if chosen.plot:
        draw(json.loads(file.read_text()), chosen.plot)
    return code


if __name__ == "__main__":
    sys.exit(main())
