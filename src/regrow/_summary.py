"""Summary: the sparse weights of a model, their densities and storages."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .nn.blocked import Conversion, trace
from .weights import sparse_weights
from .weights.stray import check

__all__ = ["Summary", "SummaryRow", "summary"]


@dataclass(frozen=True)
class SummaryRow:
    """One sparse weight."""

    name: str
    shape: tuple[int, ...]
    active: int
    numel: int
    storage: str
    why: str
    stray: int = 0
    """Inactive weights that are not 0; see `regrow.check`."""

    @property
    def density(self) -> float:
        """Share of positions that compute: active ones, and stray ones."""
        return (self.active + self.stray) / self.numel


@dataclass(frozen=True)
class Summary:
    """The sparse weights of a model; prints as a table.

    Attributes:
        rows: one row for each sparse weight.
        parameters: all positions of all parameters, dense ones included; None if a file does not distinguish them
            from buffers.
        conversions: conversions of activations into and out of the kernels' layout, in one forward and backward pass;
            None without an example input.
    """

    rows: tuple[SummaryRow, ...]
    parameters: int | None
    conversions: tuple[Conversion, ...] | None = None

    @property
    def active(self) -> int:
        """Active weights of all layers."""
        return sum(row.active for row in self.rows)

    @property
    def numel(self) -> int:
        """Positions of all sparse weights."""
        return sum(row.numel for row in self.rows)

    @property
    def stray(self) -> int:
        """Inactive weights of all layers that are not 0, and so compute all the same; see `regrow.check`."""
        return sum(row.stray for row in self.rows)

    @property
    def density(self) -> float:
        """Share of positions that compute, over all sparse weights: active and stray ones; 1 for a dense model."""
        return (self.active + self.stray) / self.numel if self.numel else 1.0

    def __str__(self) -> str:
        head = ("layer", "shape", "active / total", "density", "storage")
        body = [
            (
                row.name,
                "x".join(map(str, row.shape)),
                f"{row.active:,} / {row.numel:,}",
                f"{row.density:.2%}",
                f"{row.storage} ({row.why})",
            )
            for row in self.rows
        ]
        total = ("total", "", f"{self.active:,} / {self.numel:,}", f"{self.density:.2%}", "")
        lines = [*_table([head, *body, total])]
        if self.parameters is not None:
            lines.append(f"{self.parameters - self.numel:,} further parameters are dense")
        return "\n".join([*lines, *self._stray_lines(), *self._conversion_lines()])

    def _stray_lines(self) -> list[str]:
        names = ", ".join(f"{row.name} ({row.stray:,})" for row in self.rows if row.stray)
        return [f"inactive weights that are not 0, and compute: {names}; see regrow.check(model)"] if names else []

    def _conversion_lines(self) -> list[str]:
        if self.conversions is None:
            return []
        count = f"{len(self.conversions)} conversions of activations in a forward and backward pass"
        return [count, *(f"  {conversion}" for conversion in self.conversions)]


def summary(model: nn.Module, example_input: Any = None) -> Summary:
    """Summarizes what is sparse in a model, how much, in which storage and why.

    Densities count inactive weights that are not 0, with a warning.

    Args:
        model: sparse or dense.
        example_input: arguments of the model: a tensor, a tuple of arguments, or a mapping of keyword arguments.
            With it, the summary also lists where activations are converted into and out of the layout of the
            convolution kernels: once in and once out is best; anything between names an operation that has no kernel
            there. A copy of the model runs.

    Raises:
        ValueError: the model cannot be called with the example input.

    Example:
        >>> print(regrow.summary(model, batch))
    """
    for text in check(model):
        warnings.warn(text, stacklevel=2)
    rows = tuple(
        SummaryRow(w.name, tuple(w.shape), w.active, w.numel, w.storage, w.why, w.stray())
        for w in sparse_weights(model).values()
    )
    sparse = {id(weight.parameter) for weight in sparse_weights(model).values()}
    dense = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in sparse)
    conversions = None if example_input is None else tuple(trace(model, example_input))
    return Summary(rows, dense + sum(row.numel for row in rows), conversions)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    rule = "  ".join("-" * width for width in widths)
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]
