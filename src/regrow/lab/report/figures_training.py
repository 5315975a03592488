"""Figures of training: error against epochs and seconds, what the network costs, the prune rate, memory."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from .charts import BASE, Figure, by_label, error_axis, finish, in_percent, time_unit
from .runs import Run

__all__ = ["memory_figures", "training_figures"]


def training_figures(runs: Sequence[Run]) -> list[Figure]:
    """Curves of all runs; runs that differ by the seed alone have the same colour."""
    curves = [(run, row) for run in runs for row in run.metrics]
    if not curves:
        return []
    seconds, unit = time_unit(max(row["train_seconds"] for _, row in curves))
    rows = [
        {
            "run": run.name,
            "label": run.label,
            "epoch": row["epoch"],
            "time": row["train_seconds"] / seconds,
            "error": row["validation_error"],
            "flops": in_percent(row["flop_density"]),
        }
        for run, row in curves
    ]
    looks = by_label([run.label for run in runs])
    commands = _commands(runs)
    line = BASE.mark_line(point=alt.OverlayMarkDef(size=14) if len(rows) < 400 else False).encode(
        alt.Detail("run:N"),
        alt.Y("error:Q", **error_axis("validation error in %", [row["error"] for row in rows])),
        tooltip=["run:N", "epoch:Q", "error:Q", alt.Tooltip("time:Q", title=unit)],
        **looks,
    )
    epochs = alt.X("epoch:Q", title="epoch", axis=alt.Axis(format="d", tickMinStep=1))
    error = "Share of the validation set that the network gets wrong after each epoch, in percent."
    return [
        Figure(
            "Error against epochs",
            f"{error} A line is a run; seeds of a method and density share a colour.",
            commands,
            [finish(line.encode(epochs), rows)],
        ),
        Figure(
            f"Error against wall clock, in {unit}",
            f"{error} Time is that of training steps and topology updates, without validation; it compares runs only "
            "where nothing else ran beside them.",
            commands,
            [finish(line.encode(alt.X("time:Q", title=f"{unit} of training")), rows)],
        ),
        *_prune_rate(runs, commands),
        Figure(
            "Cost of the network during training",
            "FLOP density: FLOPs of the network's forward pass over those of the dense one, in percent. It moves when "
            "weights move to layers in which each one costs more or less.",
            commands,
            [
                finish(
                    BASE.mark_line(interpolate="step-after").encode(
                        epochs,
                        alt.Y("flops:Q", title="FLOP density in %", scale=alt.Scale(zero=True)),
                        alt.Detail("run:N"),
                        tooltip=["run:N", "epoch:Q", "flops:Q"],
                        **looks,
                    ),
                    rows,
                    220,
                )
            ],
        ),
    ]


def _prune_rate(runs: Sequence[Run], commands: Sequence[str]) -> list[Figure]:
    """The prune rate over the training; one run of each label, because seeds do not change it."""
    firsts = {run.label: run for run in reversed(runs) if run.updates}
    rates = [
        {"label": run.label, "step": step, "rate": in_percent(rate)}
        for run in firsts.values()
        for step, rate in {row["step"]: row["prune_rate"] for row in run.updates}.items()
        if rate is not None
    ]
    if not rates:
        return []
    chart = BASE.mark_line(point=alt.OverlayMarkDef(size=14)).encode(
        alt.X("step:Q", title="optimizer step"),
        alt.Y("rate:Q", title="prune rate in %"),
        tooltip=["label:N", "step:Q", "rate:Q"],
        **by_label(list(firsts)),
    )
    return [
        Figure(
            "Prune-rate schedule",
            "Share of the active weights of a layer that each topology update may prune, in percent.",
            commands,
            [finish(chart, rates, 200)],
        )
    ]


def memory_figures(runs: Sequence[Run]) -> list[Figure]:
    """Peak memory of the processes of finished runs."""
    rows = [{"run": run.name, "label": run.label, "mib": run.summary["peak_rss_mb"]} for run in runs if run.summary]
    if not rows:
        return []
    chart = BASE.mark_bar().encode(
        alt.X("mib:Q", title="peak memory in MiB"),
        alt.Y("run:N", title=None, sort=None),
        color=by_label([row["label"] for row in rows])["color"].legend(None),
        tooltip=["run:N", "mib:Q"],
    )
    return [
        Figure(
            "Peak memory of the runs, in MiB",
            "Largest resident size of each run's process; PyTorch itself and the data set are part of it.",
            _commands(runs),
            [finish(chart, rows, steps=len(rows))],
        )
    ]


def _commands(runs: Sequence[Run]) -> list[str]:
    """The command of each run that recorded it."""
    return list(dict.fromkeys(run.command for run in runs if run.command))
