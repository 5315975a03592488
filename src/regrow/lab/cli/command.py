"""Conventions of the command line: help that flows, and failures of one line with a remedy and an exit code."""

from __future__ import annotations

import inspect
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from regrow.lab.errors import RunError, lacking

if TYPE_CHECKING:
    from regrow.lab.recipes.settings import Settings

__all__ = [
    "Command",
    "bench_command",
    "compare_command",
    "is_rank_0",
    "resume_command",
    "setting_text",
    "train_command",
]

INTERRUPTED = 130


class Command(TyperGroup):
    """A command group whose errors are one line on stderr, with a traceback only on request.

    Exit codes: 2 for usage, 1 for failures, 130 for Ctrl-C.
    """

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            command.help = flowing(command.help or "")
        return command

    def main(self, args: Sequence[str] | None = None, *rest: Any, **settings: Any) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        settings["standalone_mode"] = False
        try:
            code = super().main([arg for arg in given if arg != "--debug"], *rest, **settings)
        except Exception as error:
            if "--debug" in given and exit_code(error) == 1:
                raise
            if is_rank_0() or not isinstance(error, RunError):  # which all ranks have
                typer.echo(describe(error), err=True)
            sys.exit(exit_code(error))
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            sys.exit(INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


def flowing(text: str) -> str:
    """Joins each paragraph of help into one line that the terminal wraps; paragraphs marked by \\b do not change."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(one if one.startswith("\b") else one.replace("\n", " ") for one in paragraphs)


def is_rank_0() -> bool:
    """Returns whether this process speaks for all that train together; the environment has its number."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def exit_code(error: Exception) -> int:
    """Returns 2 for usage errors, 130 for Ctrl-C, 1 otherwise."""
    if isinstance(error, typer.Abort):
        return INTERRUPTED
    return getattr(error, "exit_code", 1)


def describe(error: Exception) -> str:
    """Says in one line what is wrong and what to do."""
    if isinstance(error, typer.Abort):
        return "stopped"
    if isinstance(error, RunError):
        return str(error) if error.exit_code == INTERRUPTED else f"error: {error}"
    if hasattr(error, "format_message"):  # of the command line's parser
        context = getattr(error, "ctx", None)
        asked = context.command_path if context else "regrow"
        return f"error: {error.format_message().rstrip('.')}; see {asked} --help"
    if isinstance(error, ModuleNotFoundError):
        return lacking(error)
    if isinstance(error, OSError) and error.filename:
        return f"error: {error.filename}: {error.strerror}; check the path, or name another one (--debug shows where)"
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"error: {kind}{' '.join(str(error).split())} (--debug shows where)"


def train_command(settings: Settings, **how: object) -> str:
    """Returns the shell command of a run; `how` has options of `train`, None or False if not given.

    Example:
        >>> train_command(make_settings("digits-mlp", density=0.1))
        'regrow train digits-mlp --density 0.1'
    """
    words = ["regrow", "train", settings.recipe.name]
    if settings.method != "sparse-momentum":
        words += ["--method", settings.method]
    if settings.method != "dense":
        words += ["--density", f"{settings.density!r}"]
    words += _options({"storage": settings.storage}, {"storage": "auto"})
    words += _options({"seed": settings.seed}, {"seed": 0})
    defaults = {"devices": 1, "nodes": 1, "strategy": "auto"}
    words += _options({name: value for name, value in how.items() if value is not False}, defaults)
    return shlex.join([*words, *_overrides(settings)])


def resume_command(settings: Settings, **how: object) -> str:
    """Returns the shell command that resumes a run; see `train_command`.

    Example:
        >>> resume_command(make_settings("digits-mlp", density=0.1))
        'regrow train digits-mlp --density 0.1 --resume'
    """
    return f"{train_command(settings, **how)} --resume"


def bench_command(what: str, given: Mapping[str, Any]) -> str:
    """Returns the shell command of a measurement, to store with it; options that are None were not given.

    Example:
        >>> bench_command("layers", {"cases": "linear:64->64", "threads": None})
        "regrow bench layers --cases 'linear:64->64'"
    """
    return shlex.join(["regrow", "bench", what, *_options(given, {})])


def compare_command(recipe: str, given: Mapping[str, Any]) -> str:
    """Returns the shell command of a comparison; options that are None were not given, lists several times.

    Example:
        >>> compare_command("digits-mlp", {"seeds": "3", "vary": ["momentum=0.5,0.9"], "jobs": None})
        'regrow compare digits-mlp --seeds 3 --vary momentum=0.5,0.9'
    """
    defaults = {"storage": "auto", "executor": "processes", "threads": 1}
    return shlex.join(["regrow", "compare", recipe, *_options(given, defaults)])


def _options(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    given = {name: value for name, value in values.items() if value is not None and value != defaults.get(name)}
    return [word for name, value in given.items() for word in _option(name.replace("_", "-"), value)]


def _option(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, bool):
        return (f"--{name}" if value else f"--no-{name}",)
    if isinstance(value, list):
        return tuple(word for one in value for word in _option(name, one))
    return f"--{name}", str(value)


def _overrides(settings: Settings) -> list[str]:
    now, defaults = settings.as_dict(), settings.defaults()
    changed = {key: value for key, value in now.items() if value != defaults.get(key, ...) and key != "storage"}
    return [word for key, value in changed.items() for word in ("--set", f"{key}={setting_text(value)}")]


def setting_text(value: Any) -> str:
    """Formats a setting's value for --set."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value).lower() if value is None else str(value)
