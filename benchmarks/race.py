"""The race: dense and sparse trainings of one task, each tuned with the same number of trials, error against seconds.

Three stages, each of which goes on where the result file ends:

tune      so many trials a contender, drawn at random from its space (race_tasks.py), one seed, judged by validation.
frontier  the best trial's settings at several lengths, each with a schedule of its own, over several seeds; the test
          set is looked at once, at the end of each training.
time      the seconds of a step, of all contenders in turn in one process on a quiet machine, batches and optimizers
          counted in; the dense ones in their fastest form (eager, compiled, bfloat16), the sparse ones with and
          without topology updates.

Seconds of a training are its steps and its topology updates times what they take, without evaluation. All trials are
in the file.

    python benchmarks/race.py mnist --json results/race_mnist.json
    python benchmarks/race.py words --stages tune --jobs 1 --json results/race_words.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import altair as alt
import torch
from torch import Tensor, nn

import regrow
from race_tasks import TASKS, Contender, Data, Examples, Settings, Task
from regrow.io.atomic import write_atomically
from regrow.lab.data.datasets import data_root
from regrow.lab.machine import processor
from regrow.lab.report.charts import BASE, error_axis, log_axis, markers, save

STAGES = ("tune", "frontier", "time")
Record = dict[str, Any]


@cache
def load(task: str) -> Data:
    return TASKS[task].load(data_root(None))


class Training:
    """A network, its optimizers, schedule and updater; `step` trains it by one batch.

    Args:
        settings: of a trial.
        steps: of the whole training.
    """

    def __init__(self, task: Task, classes: int, settings: Settings, steps: int, seed: int):
        torch.manual_seed(seed)
        self.task, self.settings = task, {**settings, "draws": torch.Generator().manual_seed(seed)}
        self.model = task.network(classes, settings)
        if "density" in settings:
            self.model = regrow.sparsify(
                self.model,
                settings["density"],
                storage="compressed",
                dense=task.dense,
                distribution=settings["distribution"],
                seed=seed,
            )
        self.optimizers = list(_optimizers(self.model, settings))
        warm = max(1, round(settings["warm_up"] * steps))
        self.schedules = [
            torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))
            )
            for optimizer in self.optimizers
        ]
        self.updater = self._attach(steps, seed) if "density" in settings else None
        self.loss: Callable[[Tensor, Tensor], Tensor] = lambda x, y: task.loss(self.model, x, y, self.settings)

    def _attach(self, steps: int, seed: int) -> regrow.Updater:
        common = {"total_steps": steps, "update_every": interval(self.settings, steps)}
        if self.settings["method"] == "rigl":
            return regrow.RigL(self.model, self.optimizers[0], prune_rate=self.settings["prune_rate"], **common)
        return regrow.SparseMomentum(
            self.model, self.optimizers[0], prune_rate=self.settings["prune_rate"], window=2, seed=seed, **common
        )

    def step(self, x: Tensor, y: Tensor) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.loss(x, y).backward()
        for optimizer in self.optimizers:
            optimizer.step()
        for schedule in self.schedules:
            schedule.step()


def _optimizers(model: nn.Module, settings: Settings) -> Iterator[torch.optim.Optimizer]:
    """The one of the sparse layers first; embeddings with sparse gradients have one of their own."""
    rare = [module.weight for module in model.modules() if getattr(module, "sparse", False) is True]
    others = [parameter for parameter in model.parameters() if all(parameter is not other for other in rare)]
    common = {"lr": settings["learning_rate"], "weight_decay": settings["weight_decay"], "fused": True}
    if settings.get("optimizer") == "adam":
        yield torch.optim.AdamW(others, betas=(0.9, 0.99), **common)
    else:
        yield torch.optim.SGD(others, momentum=0.9, nesterov=True, **common)
    if rare:
        yield torch.optim.SparseAdam(rare, lr=settings["learning_rate"], betas=(0.9, 0.99))


def batches(examples: Examples, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole batches without end, in a new order each epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(examples.y), generator=generator)
        for index in order[: len(order) // size * size].split(size):
            yield examples.x[index], examples.y[index]


def steps_of(task_data: Data, settings: Settings, epochs: float) -> int:
    return int(epochs * (len(task_data.train.y) // settings["batch"]))


@torch.no_grad()
def measure(task: Task, model: nn.Module, examples: Examples) -> float:
    """Percent of wrong classes, or nats."""
    model.eval()
    total = 0.0
    for x, y in zip(examples.x.split(1000), examples.y.split(1000), strict=True):
        scores = model(x)
        wrong = (scores.argmax(1) != y).double() * 100
        total += float((wrong if task.measure == "error" else nn.functional.cross_entropy(scores, y) * len(y)).sum())
    model.train()
    return total / len(examples.y)


@dataclass(frozen=True)
class Run:
    """One training, in a process of its own, with one thread."""

    task: str
    contender: str
    settings: tuple[tuple[str, Any], ...]
    epochs: float
    seed: int
    tested: bool

    def key(self) -> Record:
        own = {"contender": self.contender, "epochs": self.epochs, "seed": self.seed}
        return {**own, "settings": dict(self.settings)}

    def __call__(self) -> Record:
        torch.set_num_threads(1)
        task = TASKS[self.task]
        data = load(self.task)
        settings = dict(self.settings)
        steps = steps_of(data, settings, self.epochs)
        training = Training(task, data.classes, settings, steps, self.seed)
        for (x, y), _ in zip(batches(data.train, settings["batch"], self.seed), range(steps), strict=False):
            training.step(x, y)
        record = {**self.key(), "steps": steps, "validation": measure(task, training.model, data.validation)}
        if training.updater:
            summary = regrow.summary(training.model)
            record["active"], record["positions"] = summary.active, summary.numel
        return record | ({"test": measure(task, training.model, data.test)} if self.tested else {})


def trials(task: Task, name: str, number: int) -> list[Run]:
    """So many different settings, drawn at random, the same ones each time."""
    contender, draws = task.contenders[name], random.Random(f"{task.name} {name}")
    chosen: list[Settings] = []
    while len(chosen) < number:
        drawn = {key: draws.choice(values) for key, values in contender.space.items()}
        if drawn not in chosen:
            chosen.append(drawn)
    return [
        Run(task.name, name, tuple({**contender.fixed, **drawn}.items()), contender.tuned_at, 0, False)
        for drawn in chosen
    ]


def winner(content: Record, name: str) -> Settings | None:
    """The settings of the best trial, by validation."""
    of_it = [trial for trial in content["trials"] if trial["contender"] == name]
    return min(of_it, key=lambda trial: trial["validation"])["settings"] if of_it else None


def frontier(task: Task, content: Record, seeds: int) -> list[Run]:
    runs = []
    for name, contender in task.contenders.items():
        if settings := winner(content, name):
            for length in contender.lengths:
                runs += [
                    Run(task.name, name, tuple(settings.items()), length, seed, True) for seed in range(1, seeds + 1)
                ]
    return runs


def train_all(runs: list[Run], records: list[Record], jobs: int, write: Callable[[], None]) -> None:
    """Trains what has no record; adds a record for each, and writes the file."""
    known = [{key: record[key] for key in ("contender", "epochs", "seed", "settings")} for record in records]
    todo = [run for run in runs if run.key() not in known]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = [pool.submit(run) for run in todo]
        for number, future in enumerate(futures, 1):
            record = future.result()
            records.append(record)
            write()
            shown = {key: value for key, value in record.items() if key != "settings"}
            print(f"{number}/{len(todo)}", shown, record["settings"], flush=True)


# -- seconds


def chunk(training: Training, stream: Iterator[tuple[Tensor, Tensor]], steps: int) -> float:
    """Seconds of a step, of so many."""
    start = time.perf_counter()
    for _ in range(steps):
        training.step(*next(stream))
    return (time.perf_counter() - start) / steps


def forms(contender: Contender) -> list[str]:
    if contender.is_sparse:
        return ["with updates", "between updates"]
    return ["eager", "compiled", *(["bfloat16"] if torch.cpu._is_avx512_bf16_supported() else [])]


def interval(settings: Settings, steps: int) -> int:
    """Steps between topology updates in a training of so many steps."""
    return max(1, steps // (settings["updates"] + 1))


def time_steps(task: Task, content: Record, rounds: int, threads: int) -> list[Record]:
    """The seconds of a step of each contender and form, rounds in turn.

    Sparse contenders have two rows: one topology update in each round, as often as in a trial; and none.
    """
    torch.set_num_threads(threads)
    data = load(task.name)
    arms = []
    for name, contender in task.contenders.items():
        if not (settings := winner(content, name)):
            continue
        trial = steps_of(data, settings, contender.tuned_at)
        many = 1000 * trial
        for form in forms(contender):
            every = interval(settings, trial) if contender.is_sparse else 100
            updates = {"updates": many // every - 1 if form == "with updates" else 0} if contender.is_sparse else {}
            training = Training(task, data.classes, {**settings, **updates}, many, 0)
            if form == "compiled":
                training.loss = torch.compile(training.loss)
            if form == "bfloat16":
                training.loss = torch.autocast("cpu", torch.bfloat16)(training.loss)
            arms.append((name, form, training, batches(data.train, settings["batch"], 0), every, []))
    for number in range(rounds + 1):
        for _, _, training, stream, every, seconds in arms:
            taken = chunk(training, stream, every)
            if number:  # the first warms up and compiles
                seconds.append(taken)
    return [
        {"contender": name, "form": form, "threads": threads, "steps": every, "seconds": seconds}
        for name, form, _, _, every, seconds in arms
    ]


# -- the result


def seconds_of(content: Record, run: Record) -> float:
    """Of a training: its steps in the fastest form, and what its topology updates take beside them."""
    rows = [row for row in content["times"] if row["contender"] == run["contender"]]
    step = {row["form"]: median(row["seconds"]) for row in rows}
    if "with updates" not in step:
        return run["steps"] * min(step.values())
    (every,) = (row["steps"] for row in rows if row["form"] == "with updates")
    update = max(0.0, every * (step["with updates"] - step["between updates"]))
    updates = (run["steps"] - 1) // interval(run["settings"], run["steps"])
    return run["steps"] * step["between updates"] + updates * update


def points(content: Record) -> list[Record]:
    """A point of a frontier: contender, epochs, mean test error, its standard error, seconds."""
    groups: dict[tuple[str, float], list[Record]] = {}
    for run in content["frontier"]:
        groups.setdefault((run["contender"], run["epochs"]), []).append(run)
    return [
        {
            "contender": name,
            "epochs": epochs,
            "error": fmean(run["test"] for run in runs),
            "standard_error": stdev(run["test"] for run in runs) / len(runs) ** 0.5 if len(runs) > 1 else None,
            "seconds": seconds_of(content, runs[0]),
        }
        for (name, epochs), runs in sorted(groups.items())
    ]


def seconds_to(error: float, frontier: list[Record]) -> float | None:
    """Where the line of a frontier first comes down to an error; between points, a straight line over log seconds."""
    points = sorted(frontier, key=lambda point: point["seconds"])
    if points[0]["error"] <= error:
        return points[0]["seconds"]
    for before, after in itertools.pairwise(points):
        if after["error"] <= error:
            share = (before["error"] - error) / (before["error"] - after["error"])
            return before["seconds"] * (after["seconds"] / before["seconds"]) ** share
    return None


def verdict(found: list[Record]) -> list[Record]:
    """For each point of a contender that is not sparse: when the sparse frontier is as good."""
    sparse = [point for point in found if point["contender"] == "sparse"]
    rows = []
    for point in (point for point in found if point["contender"] != "sparse"):
        seconds = seconds_to(point["error"], sparse)
        rows.append(
            {
                "against": point["contender"],
                "epochs": point["epochs"],
                "error": point["error"],
                "seconds": point["seconds"],
                "sparse_seconds": seconds,
                "times_faster": seconds and point["seconds"] / seconds,
            }
        )
    return rows


def draw(content: Record, file: Path) -> None:
    """Test error against seconds, a line a contender, a point a length, with standard errors."""
    unit = "test error in %" if content["measure"] == "error" else "test loss in nats"
    rows = [{**point, "label": point["contender"]} for point in content["points"]]
    for row in rows:
        spread = row["standard_error"] or 0
        row |= {"low": row["error"] - spread, "high": row["error"] + spread}
    looks = markers([row["label"] for row in rows])
    base = BASE.encode(
        alt.X("seconds:Q", **log_axis("seconds of training", [row["seconds"] for row in rows])),
        looks["color"],
    )
    errors = [row[end] for row in rows for end in ("low", "high")]
    line = base.mark_line(strokeWidth=1.5).encode(alt.Y("error:Q", **error_axis(unit, errors)))
    points = base.mark_point(size=60, filled=True, opacity=1).encode(alt.Y("error:Q"), looks["shape"])
    bars = base.mark_rule().encode(alt.Y("low:Q"), alt.Y2("high:Q"))
    title = f"The race: {TASKS[content['task']].about}"
    save(file, line + bars + points, rows, title, "Each point: one length of training, mean of seeds ± standard error.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--stages", default=",".join(STAGES), help="some of %(default)s")
    parser.add_argument("--trials", type=int, default=12, help="for each contender (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="of the frontier (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, a thread each (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="when steps are timed (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="of timing (default: %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the frontiers there")
    parser.add_argument("--json", type=Path, required=True, help="the result file, rewritten after each training")
    chosen = parser.parse_args()
    stages = chosen.stages.split(",")
    if unknown := set(stages) - set(STAGES):
        parser.error(f"--stages: {', '.join(sorted(unknown))} is none of {', '.join(STAGES)}")
    task = TASKS[chosen.task]
    content: Record = {"trials": [], "frontier": [], "times": []}
    if chosen.json.exists():
        content |= json.loads(chosen.json.read_text())
    content |= {"command": shlex.join(["python", *sys.argv]), "task": task.name, "measure": task.measure}

    def write() -> None:
        if content["times"]:
            content["points"] = points(content)
            content["verdict"] = verdict(content["points"])
        with write_atomically(chosen.json) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")

    if "tune" in stages:
        runs = [run for name in task.contenders for run in trials(task, name, chosen.trials)]
        train_all(runs, content["trials"], chosen.jobs, write)
    if "frontier" in stages:
        train_all(frontier(task, content, chosen.seeds), content["frontier"], chosen.jobs, write)
    if "time" in stages:
        content["times"] = time_steps(task, content, chosen.rounds, chosen.threads)
        content["processor"] = processor()
        write()
        for row in content.get("verdict", []):
            print(row)
    if chosen.plot:
        draw(content, chosen.plot)


if __name__ == "__main__":
    main()
