"""Leaderboards: a row for each method, density and varied setting, over seeds; as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from regrow.io.atomic import write_atomically

from .published import PublishedPoint, sources

__all__ = [
    "COLUMNS",
    "Entry",
    "cells",
    "find_published",
    "leaderboard",
    "markdown",
    "mean_and_error",
    "percent",
    "varied",
    "write_tables",
]

COLUMNS = (
    "method",
    "density",
    "achieved_density",
    "test_error_mean",
    "test_error_se",
    "seeds",
    "train_flops",
    "inference_flops",
    "seconds",
    "peak_rss_mb",
    "updates",
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """The runs of one row.

    Attributes:
        method: as in `Settings`.
        density: as in `Settings`; dense has density 1.
        settings: settings that the analysis varies, such as {"momentum": 0.9}; no key is one of COLUMNS.
        runs: summary.json of each seed that is finished.
        seeds: planned number of seeds.
    """

    method: str
    density: float
    settings: Mapping[str, Any]
    runs: Sequence[Mapping[str, Any]]
    seeds: int


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and its standard error where there are two values or more.

    Example:
        >>> mean_and_error([1.0, 3.0])
        (2.0, 1.0)
    """
    return mean(values), stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def leaderboard(entries: Iterable[Entry]) -> list[Row]:
    """Rows with COLUMNS and the varied settings; dense first, then by density, the lowest error first.

    achieved_density: share of the prunable weights that are active at the end. test_error_mean, _se: in percent, mean
    and standard error over `seeds` finished runs. train_flops: of all training steps, with the topology that each had,
    over those of a dense run (`flops.step_flops`); inference_flops: of the final topology over the dense network's.
    seconds: of training steps and topology updates. All of these are means; peak_rss_mb (MiB) and updates are the
    largest of the seeds. Entries without a finished run have no row.
    """
    rows = [_row(entry) for entry in entries if entry.runs]
    return sorted(rows, key=lambda row: (row["method"] != "dense", -row["density"], row["test_error_mean"]))


def _row(entry: Entry) -> Row:
    runs = entry.runs
    error, se = mean_and_error([run["test_error"] for run in runs])
    train_flops = [run.get("train_flops") for run in runs]  # None in runs of earlier versions
    counted = [flops for flops in train_flops if flops is not None]
    return {
        "method": entry.method,
        "density": entry.density,
        **entry.settings,
        "achieved_density": mean(run["active_weights"] / run["prunable_weights"] for run in runs),
        "test_error_mean": error,
        "test_error_se": se,
        "seeds": len(runs),
        "train_flops": mean(counted) if len(counted) == len(runs) else None,
        "inference_flops": mean(run["flop_density_end"] for run in runs),
        "seconds": mean(run["train_seconds"] for run in runs),
        "peak_rss_mb": max(run["peak_rss_mb"] for run in runs),
        "updates": max(run["updates"] for run in runs),
    }


def varied(rows: Sequence[Row]) -> list[str]:
    """The settings that rows differ by, besides method and density."""
    return list(dict.fromkeys(key for row in rows for key in row if key not in COLUMNS))


def find_published(row: Row, points: Iterable[PublishedPoint]) -> PublishedPoint | None:
    """The published figure of a row: same method, density and varied settings."""
    settings = {key: value for key, value in row.items() if key not in COLUMNS}
    key = (row["method"], round(row["density"], 6), settings)
    return next((point for point in points if (point.method, point.density, dict(point.settings)) == key), None)


def write_tables(
    folder: Path,
    rows: Sequence[Row],
    *,
    title: str,
    command: str,
    seeds: int,
    points: Sequence[PublishedPoint] = (),
    unfinished: Mapping[str, str] | None = None,
    plots: Sequence[str] = (),
) -> None:
    """Writes leaderboard.json, .csv and .md, each whole or not at all.

    Args:
        title: title of the page.
        command: that made it.
        seeds: planned number of seeds of each row.
        points: published figures.
        unfinished: run -> why it is not there.
        plots: file names of pictures to show.
    """
    _write(folder / "leaderboard.json", json.dumps(list(rows), indent=1) + "\n")
    with write_atomically(folder / "leaderboard.csv") as temporary, open(temporary, "w", newline="") as file:
        head = [*COLUMNS[:2], *varied(rows), *COLUMNS[2:]]
        writer = csv.DictWriter(file, head, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    page = markdown(rows, title, command, seeds, points, unfinished or {}, plots)
    _write(folder / "leaderboard.md", page)


def _write(file: Path, text: str) -> None:
    with write_atomically(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def markdown(
    rows: Sequence[Row],
    title: str,
    command: str,
    seeds: int,
    points: Sequence[PublishedPoint],
    unfinished: Mapping[str, str],
    plots: Sequence[str],
) -> str:
    """The page that people read."""
    found = [find_published(row, points) for row in rows]
    settings, known = varied(rows), [point for point in found if point]
    head = ["method", "density", *settings, "achieved", "test error, %", *(["published, %"] if known else [])]
    head += ["seeds", "training FLOPs", "inference FLOPs", "seconds", "peak memory, MiB", "updates"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row, point in zip(rows, found, strict=True):
        figures = cells(row, settings, seeds)
        if known:
            figures.insert(4 + len(settings), plus_minus(point.error, point.se) if point else "–")
        lines.append(figures)
    parts = [f"# {title}", f"`{command}`", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    parts.append(
        "Test error: mean ± standard error over seeds; the test set is looked at once, at the end of each run. FLOPs "
        "are relative to dense: those of training count the topology and the dense gradients of every step, those of "
        "inference the final topology. Seconds are of training steps and topology updates."
    )
    parts += [f"![{name}]({name})" for name in plots]
    if unfinished:
        parts.append("Not finished:\n\n" + "\n".join(f"- {run}: {why}" for run, why in unfinished.items()))
    if known:
        parts.append("Published:\n\n" + "\n".join(f"- {source}" for source in sources(known)))
    return "\n\n".join(parts) + "\n"


def cells(row: Row, settings: Sequence[str], seeds: int) -> list[str]:
    """A row as people read it, in the order of COLUMNS with mean and standard error as one."""
    flops = "–" if row["train_flops"] is None else f"{row['train_flops']:.3f}"
    return [
        row["method"],
        "–" if row["method"] == "dense" else percent(row["density"]),
        *(str(row.get(key, "–")) for key in settings),
        f"{row['achieved_density']:.4f}",
        plus_minus(row["test_error_mean"], row["test_error_se"]),
        str(row["seeds"]) if row["seeds"] == seeds else f"{row['seeds']} of {seeds}",
        flops,
        f"{row['inference_flops']:.3f}",
        f"{row['seconds']:.1f}",
        f"{row['peak_rss_mb']:.0f}",
        str(row["updates"]),
    ]


def percent(density: float) -> str:
    """A density as people write it.

    Example:
        >>> percent(0.05)
        '5 %'
    """
    return f"{100 * density:g} %"


def plus_minus(value: float, error: float | None) -> str:
    """Mean and standard error, in percent."""
    return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2f}"
