"""Tables of the report page: the runs, the leaderboard, settings and versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .inputs import Board
from .leaderboard import cells, find_published, plus_minus, varied
from .lines import named
from .published import published_points
from .runs import Run

__all__ = ["Cell", "Table", "board_table", "run_table", "settings_tables"]


@dataclass(frozen=True)
class Cell:
    """The text shown, and the value by which the column is sorted; None goes last."""

    text: str
    value: float | str | None = None


@dataclass(frozen=True)
class Table:
    """A table with its heading and caption.

    Attributes:
        sortable: a click on a head sorts by that column.
        folded: opened by a click.
    """

    title: str
    caption: str
    commands: Sequence[str]
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = True
    folded: bool = False


def run_table(runs: Sequence[Run]) -> Table:
    """A row for each run: where it stands, and what it came to."""
    head = ["run", "recipe", "epochs", "test error, %", "validation error, %", "active weights", "density, %"]
    head += ["training, s", "ms a step", "peak memory, MiB"]
    return Table(
        "Runs",
        "The test set is looked at once, at the end of a run; until then there is the validation error alone. Seconds "
        "are of training steps and topology updates. Click a head to sort.",
        (),
        head,
        [_run_row(run) for run in runs],
    )


def _run_row(run: Run) -> list[Cell]:
    summary = run.summary or {}
    last = run.metrics[-1] if run.metrics else {}
    done = summary.get("epochs", last.get("epoch", 0))
    total = run.settings.get("epochs")
    active, prunable = summary.get("active_weights"), summary.get("prunable_weights")
    step = summary.get("seconds_per_step")
    return [
        Cell(run.name, run.name),
        Cell(run.recipe or "–", run.recipe),
        Cell(f"{done}" if summary or total is None else f"{done} of {total}", done),
        _number(summary.get("test_error"), ".2f"),
        _number(summary.get("validation_error", last.get("validation_error")), ".2f"),
        Cell(f"{active:,} of {prunable:,}", active) if active is not None else Cell("–"),
        _number(100 * last["density"] if last else None, ".3g"),
        _number(summary.get("train_seconds", last.get("train_seconds")), ".1f"),
        _number(None if step is None else 1000 * step, ".2f"),
        _number(summary.get("peak_rss_mb"), ".0f"),
    ]


def _number(value: float | None, form: str) -> Cell:
    return Cell("–") if value is None else Cell(format(value, form), value)


def board_table(board: Board) -> Table:
    """The rows of a leaderboard, with the published figure where there is one."""
    settings, points = varied(board.rows), published_points(board.recipe)
    known = any(find_published(row, points) for row in board.rows)
    head = ["method", "density", *map(named, settings), "achieved", "test error, %"]
    head += [
        *(["published, %"] if known else []),
        "seeds",
        "training FLOPs",
        "inference FLOPs",
        "seconds",
        "peak memory, MiB",
        "updates",
    ]
    rows = []
    for row in board.rows:
        values = [row["method"], row["density"], *(str(row.get(key, "–")) for key in settings)]
        values += [row["achieved_density"], row["test_error_mean"], row["seeds"], row["train_flops"]]
        values += [row["inference_flops"], row["seconds"], row["peak_rss_mb"], row["updates"]]
        line = [Cell(text, value) for text, value in zip(cells(row, settings, board.seeds), values, strict=True)]
        if known:
            point = find_published(row, points)
            line.insert(4 + len(settings), Cell(plus_minus(point.error, point.se), point.error) if point else Cell("–"))
        rows.append(line)
    return Table(
        f"Leaderboard: {board.recipe}",
        "Test error: mean ± standard error over seeds. FLOPs are relative to dense: those of training count the "
        "topology of every step, those of inference the final one. Click a head to sort.",
        board.commands,
        head,
        rows,
    )


def settings_tables(runs: Sequence[Run]) -> list[Table]:
    """Returns tables of what runs of one recipe differ by and have in common; one run of each label."""
    firsts = list({run.label: run for run in reversed(runs)}.values())[::-1]
    known = {run.label: _facts(run) for run in firsts}
    keys = list(dict.fromkeys(key for facts in known.values() for key in facts))
    differing = [key for key in keys if len({str(facts.get(key)) for facts in known.values()}) > 1]
    common = [key for key in keys if key not in differing]
    recipe = runs[0].recipe
    tables = []
    if differing:
        rows = [[Cell(named(key)), *(Cell(_text(facts.get(key))) for facts in known.values())] for key in differing]
        tables.append(Table(f"What the runs of {recipe} differ by", "", (), ["setting", *known], rows, sortable=False))
    if common:
        rows = [[Cell(named(key)), Cell(_text(next(iter(known.values())).get(key)))] for key in common]
        title = f"Settings and versions{' that they share' if differing else f' of {recipe}'}"
        tables.append(Table(title, "", (), ["setting", "value"], rows, sortable=False, folded=True))
    return tables


def _facts(run: Run) -> dict[str, Any]:
    """Settings, and the versions and the machine that they ran on."""
    source: Mapping[str, Any] = {**(run.summary or {}), **run.about}
    others = ("model", "storage", "threads", "processor", "torch", "regrow")
    return {
        **{key: value for key, value in run.settings.items() if key not in ("seed", "storage")},
        **{key: source[key] for key in others if key in source},
    }


def _text(value: Any) -> str:
    return "–" if value is None else ", ".join(map(str, value)) or "–" if isinstance(value, list) else str(value)
