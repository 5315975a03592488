"""Tables of methods under one protocol, from the folders that `regrow compare` left in results/methods."""

from __future__ import annotations

import re
from typing import Any

from regrow.lab.report.leaderboard import find_published, percent, varied
from regrow.lab.report.published import published_points

from .reading import markdown, plus_minus, read

Row = dict[str, Any]


def leaderboard(*names: str) -> str:
    """Test error of each method by density, the lowest at 5 % first, beside the FLOPs that it used there."""
    rows = _rows(*names)
    densities = sorted({row["density"] for row in rows if row["method"] != "dense"})
    by_method: dict[str, dict[float, Row]] = {}
    for row in rows:
        by_method.setdefault(row["method"], {})[row["density"]] = row
    lines = []
    for method, of in sorted(by_method.items(), key=lambda one: _at_5(one[1])["test_error_mean"]):
        chosen = _at_5(of)
        errors = [_error(of.get(density, of.get(1.0))) for density in densities]
        flops = [f"{chosen['train_flops']:.3f}", f"{chosen['inference_flops']:.3f}"]
        lines.append([method, *errors, *flops, str(chosen["updates"])])
    head = ["method", *map(percent, densities), "training FLOPs, 5 %", "inference FLOPs, 5 %", "updates"]
    return f"{markdown(head, lines)}\n\n{_commands(*names)}"


def published(*names: str) -> str:
    """Test errors of whole trainings beside published ones of LeNet-300-100, whose network may have had batch norm."""
    rows = [(read(f"methods/{name}/grid"), row) for name in names for row in _rows(name)]
    points = published_points("lenet300-mnist")
    lines = []
    for grid, row in sorted(rows, key=lambda one: (one[1]["density"], one[1]["test_error_mean"])):
        point = find_published({key: row[key] for key in ("method", "density")}, points)
        if point:
            difference = row["test_error_mean"] - point.error
            figures = [_error(row), str(row["seeds"]), plus_minus(point.error, point.se), f"{difference:+.2f}"]
            settings = [f"{key}={row[key]}" for key in varied([row])] + re.findall(r"--set (\S+)", grid["command"])
            lines.append([row["method"], percent(row["density"]), grid["recipe"], ", ".join(settings) or "–", *figures])
    head = ["method", "density", "recipe", "settings", "test error, %", "seeds", "published, %", "difference"]
    return f"{markdown(head, lines)}\n\n{_commands(*names)}"


def ablation(name: str) -> str:
    """Test error of sparse momentum by growth and redistribution; in brackets the FLOPs of the trained topology."""
    rows = {(row["growth"], row["share"]): row for row in _rows(name)}
    growths, shares = (list(dict.fromkeys(column)) for column in zip(*rows, strict=True))
    lines = [
        [share, *(f"{_error(row)} ({row['inference_flops']:.3f})" if row else "–" for row in of_share)]
        for share in shares
        for of_share in [[rows.get((growth, share)) for growth in growths]]
    ]
    return f"{markdown(['redistribution', *(f'growth by {growth}' for growth in growths)], lines)}\n\n{_commands(name)}"


def listed(name: str) -> str:
    """A row for each method, density and varied settings, the lowest error at a density first."""
    rows = sorted(_rows(name), key=lambda row: (row["density"], row["test_error_mean"]))
    settings = varied(rows)
    lines = []
    for row in rows:
        of_row = [str(row[key]) for key in settings]
        figures = [_error(row), str(row["seeds"]), f"{row['train_flops']:.3f}"]
        lines.append([row["method"], percent(row["density"]), *of_row, *figures])
    head = ["method", "density", *settings, "test error, %", "seeds", "training FLOPs"]
    return f"{markdown(head, lines)}\n\n{_commands(name)}"


def growth_rules() -> str:
    """Validation errors of methods by density, the lowest at 1 % first."""
    result = read("growth_rules")
    by_method: dict[str, dict[float, Row]] = {}
    for row in result["rows"]:
        by_method.setdefault(row["method"], {})[row["density"]] = row
    densities = sorted({row["density"] for row in result["rows"]})
    lines = [
        [method, *(plus_minus(of[density]["mean"], of[density]["se"]) for density in densities)]
        for method, of in sorted(by_method.items(), key=lambda one: one[1][densities[0]]["mean"])
    ]
    return f"{markdown(['method', *map(percent, densities)], lines)}\n\n{_measured(result)}"


def growth_costs() -> str:
    """Milliseconds that an update adds to a step, by method and width."""
    result = read("growth_rules")
    costs = {(row["method"], row["width"]): f"{row['ms']:.0f} ms" for row in result["costs"]}
    names, widths = (list(dict.fromkeys(column)) for column in zip(*costs, strict=True))
    widths = sorted(widths)
    lines = [[name, *(costs.get((name, width), "–") for width in widths)] for name in names]
    return f"{markdown(['method', *(f'{width:,}' for width in widths)], lines)}\n\n{_measured(result)}"


def _measured(result: Row) -> str:
    return f"`{result['command']}` ({result['processor']}, {result['threads']} thread)."


def _rows(*names: str) -> list[Row]:
    return [row for name in names for row in read(f"methods/{name}/leaderboard")]


def _at_5(of: dict[float, Row]) -> Row:
    return of.get(0.05, of.get(1.0))  # type: ignore[return-value]


def _error(row: Row | None) -> str:
    return plus_minus(None, None) if row is None else plus_minus(row["test_error_mean"], row["test_error_se"])


def _commands(*names: str) -> str:
    return "\n\n".join(f"`{read(f'methods/{name}/grid')['command']}`" for name in names)
