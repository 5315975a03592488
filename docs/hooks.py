"""MkDocs hooks: formulas become MathML, and the page of the command line is filled with what --help says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from latex2mathml.converter import convert
from typer import rich_utils
from typer.main import get_command
from typer.testing import CliRunner

from regrow.lab.cli.app import app

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def formula(source: str, *_: Any, **__: Any) -> str:
    """A ```math fence, as pymdownx.superfences asks for it: browsers draw MathML without scripts or network."""
    return convert(source, display="block")


def on_config(config: Any) -> Any:
    fence = {"name": "math", "class": "math", "format": formula}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return markdown + "\n".join(_commands()) if page.file.src_uri == "reference/command-line.md" else markdown


def _commands() -> Iterator[str]:
    """A heading and a help text for each command."""
    rich_utils.MAX_WIDTH = 122  # the lines of docstrings, unbroken
    for words in _names(get_command(app)):
        shown = CliRunner().invoke(app, [*words, "--help"], env={"NO_COLOR": "1"})
        text = ANSI.sub("", shown.output).strip("\n").replace("Usage: root", "Usage: regrow")
        yield f"\n## {' '.join(['regrow', *words])}\n\n```text\n{text}\n```\n"


def _names(command: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, below in command.commands.items():
        yield (*before, name)
        if hasattr(below, "commands"):
            yield from _names(below, (*before, name))
