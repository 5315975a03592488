"""Comparison: which runs are compared, and the note in the output folder that says so."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regrow.io.atomic import write_atomically
from regrow.lab.bench.common import read_density
from regrow.lab.cli.command import setting_text
from regrow.lab.errors import UsageError, refuse_twice
from regrow.lab.recipes.methods import check_taken, concerns_dense
from regrow.lab.recipes.recipe import stored_name
from regrow.lab.recipes.settings import Settings, as_given, make_settings

from .grid import Cell

__all__ = ["Arm", "Comparison", "claim_folder", "make_comparison"]

DENSE = "dense"
NOTE = "grid.json"


@dataclass(frozen=True)
class Arm:
    """One row of the leaderboard: its runs differ by nothing but the seed.

    Attributes:
        method: as in `Settings`.
        density: as in `Settings`; dense has density 1.
        settings: varied settings, such as {"momentum": 0.9}.
        cells: one for each seed.
    """

    method: str
    density: float
    settings: Mapping[str, Any]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Comparison:
    """A grid: every method at every density (dense: once) with every combination of varied settings and every seed.

    Attributes:
        about: description of the recipe with the settings of all runs.
        arms: rows of the leaderboard.
        seeds: seeds of each arm.
        identity: content of the folder's note.
    """

    recipe: str
    about: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    identity: Mapping[str, Any]

    @property
    def cells(self) -> list[Cell]:
        """Seed by seed, so that every row has a first figure early."""
        return [cell for of_seed in zip(*(arm.cells for arm in self.arms), strict=True) for cell in of_seed]


def make_comparison(
    recipe: str,
    out: Path,
    *,
    methods: Sequence[str],
    densities: Sequence[str],
    seeds: str,
    vary: Sequence[str] = (),
    overrides: Sequence[str] = (),
    storage: str = "auto",
    threads: int = 1,
    data_dir: Path | None = None,
) -> Comparison:
    """A comparison from what was typed; everything is checked here, nothing is run.

    Args:
        out: its folder.
        seeds: "5" for 0 to 4, or a list as "0,3".
        vary: "key=value,value" each. Values that hold commas themselves are parted by ";".

    Raises:
        UsageError: something does not exist, is out of range or stands twice.
    """
    read = [_read_axis(assignment) for assignment in vary]
    numbers, wanted, axes = read_seeds(seeds), [read_density(word) for word in densities], dict(read)
    named = [key for key, _ in read] + [stored_name(word.partition("=")[0]) for word in overrides]
    for what, listed in (("method", methods), ("density", wanted), ("seed", numbers), ("setting", named)):
        refuse_twice(what, listed)
    base = make_settings(recipe, method=methods[0], overrides=overrides, storage=storage)
    arms = []
    for method, density, variant in _points(methods, wanted, axes):
        changed = [*overrides, *(f"{key}={value}" for key, value in variant.items())]
        kept = "auto" if method == DENSE else storage
        runs = [
            make_settings(recipe, method=method, density=density, storage=kept, seed=seed, overrides=changed)
            for seed in numbers
        ]
        values = {key: runs[0].as_dict()[key] for key in variant}
        cells = tuple(_cell(settings, changed, values, out, threads, data_dir) for settings in runs)
        arms.append(Arm(method, runs[0].density, values, cells))
    check_taken(methods, named)
    _refuse_same_folder(arms)
    identity = {
        "recipe": recipe,
        "threads": threads,
        "settings": {key: value for key, value in base.stored().items() if key not in (*_AXES, *axes)},
        "methods": list(methods),
        "densities": wanted,
        "seeds": list(numbers),
        "vary": {key: [_parsed(base, overrides, key, value) for value in values] for key, values in axes.items()},
    }
    return Comparison(recipe, _about(base), tuple(arms), numbers, identity)


_AXES = ("recipe", "method", "density", "seed")


def _parsed(base: Settings, overrides: Sequence[str], key: str, value: str) -> Any:
    """A setting's value as settings hold it: 0.50 is 0.5."""
    changed = [*overrides, f"{key}={value}"]
    return make_settings(base.recipe.name, method=base.method, overrides=changed).as_dict()[key]


def _about(base: Settings) -> str:
    """Returns what the recipe is, and what of it is changed for all runs."""
    now, defaults = base.as_dict(), base.defaults()
    changed = [f"{key}={setting_text(value)}" for key, value in now.items() if value != defaults.get(key, ...)]
    return f"{base.recipe.about}; {', '.join(changed) if changed else f'{base.recipe.epochs} epochs'}"


def read_seeds(text: str) -> tuple[int, ...]:
    """Seeds as typed: how many, or which, with commas between. Raises UsageError.

    Example:
        >>> read_seeds("3"), read_seeds("0,7")
        ((0, 1, 2), (0, 7))
    """
    try:
        numbers = tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 0 or ("," not in text and numbers[0] == 0):
        raise UsageError(f"seeds {text!r} must be a number, such as --seeds 5, or a list, such as --seeds 0,3,7")
    return numbers if "," in text else tuple(range(numbers[0]))


def _read_axis(assignment: str) -> tuple[str, list[str]]:
    """A varied setting as typed; make_settings says whether it exists."""
    key, equals, text = assignment.partition("=")
    values = [value.strip() for value in text.split(";" if ";" in text else ",")]
    if not equals or not all(values):
        raise UsageError(f"--vary {assignment!r} must have the form key=value,value, such as --vary momentum=0.5,0.9")
    refuse_twice(f"value of {key}", values)
    return stored_name(key), values


def _points(
    methods: Sequence[str], densities: Sequence[float], axes: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, float | None, dict[str, str]]]:
    """(method, density, varied settings) of each row; dense has no density and only the settings that concern it."""
    for method in methods:
        own = {key: values for key, values in axes.items() if method != DENSE or concerns_dense(key)}
        for density in [None] if method == DENSE else densities:
            for chosen in itertools.product(*own.values()):
                yield method, density, dict(zip(own, chosen, strict=True))


def _cell(
    settings: Settings,
    overrides: Sequence[str],
    varied: Mapping[str, Any],
    out: Path,
    threads: int,
    data_dir: Path | None,
) -> Cell:
    words = [settings.recipe.name, "--method", settings.method]
    words += [] if settings.method == DENSE else ["--density", repr(settings.density)]
    words += ["--storage", settings.storage, "--seed", str(settings.seed)]
    words += [word for assignment in overrides for word in ("--set", assignment)]
    words += ["--threads", str(threads), *(["--data-dir", str(data_dir)] if data_dir else [])]
    density = "" if settings.method == DENSE else f" {settings.density:g}"
    changes = "".join(f" {key}={setting_text(value)}" for key, value in varied.items())
    name = f"{settings.method}{density}{changes} seed {settings.seed}"
    return Cell(name, out / "runs" / settings.folder().name, tuple(words), settings.recipe.epochs)


def _refuse_same_folder(arms: Sequence[Arm]) -> None:
    """Two cells in one folder would be one run shown twice: densities or values that differ in print alone."""
    names: dict[Path, Cell] = {}
    for cell in (cell for arm in arms for cell in arm.cells):
        other = names.setdefault(cell.folder, cell)
        if other is not cell:
            raise UsageError(f"{other} and {cell} are the same run, or too close to tell apart; leave one out")


def claim_folder(out: Path, comparison: Comparison, command: str) -> None:
    """Writes the note that says whose folder this is; a grid may grow, but no cell of it may be forgotten.

    Beside the comparison's identity the note has how many runs it is, and the command, which no later one has to equal.

    Raises:
        UsageError: the folder holds something else, or runs that are no part of this comparison.
    """
    note = out / NOTE
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder with --out")
    if note.exists():
        _refuse_other_grid(out, json.loads(note.read_text()), comparison.identity)
    elif out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} holds files that belong to no comparison; choose another folder with --out")
    content = {**comparison.identity, "runs": len(comparison.cells), "command": command}
    with write_atomically(note) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def _refuse_other_grid(out: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differences = [
        f"{key}: {there[key]} there, {now[key]} now" for key in ("recipe", "threads") if there[key] != now[key]
    ]
    fixed, fixed_there = as_given(now["settings"]), as_given(there["settings"])
    differences += [
        f"{key}: {fixed_there.get(key, 'default')} there, {fixed.get(key, 'varied')} now"
        for key in {**fixed, **fixed_there}
        if fixed_there.get(key, ...) != fixed.get(key, ...) and key not in there["vary"]
    ]
    if there["vary"].keys() != now["vary"].keys():
        names = [", ".join(side["vary"]) or "nothing" for side in (there, now)]
        differences.append(f"varied: {names[0]} there, {names[1]} now")
    lists = {key: (there[key], now[key]) for key in ("methods", "densities", "seeds")}
    lists |= {key: (values, now["vary"][key]) for key, values in there["vary"].items() if key in now["vary"]}
    for key, (old, new) in lists.items():
        if lacking := [str(value) for value in old if value not in new]:
            differences.append(f"{key} without {', '.join(lacking)}")
    if differences:
        raise UsageError(
            f"{out} holds another comparison ({'; '.join(differences)}); repeat what it has, add more if you like, or "
            "choose another folder with --out"
        )
