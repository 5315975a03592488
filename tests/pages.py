"""The pages of the documentation, and what stands in their fences.

The Python of a page runs block by block, in one set of names, as it stands. A block does not run that follows a line

    <!-- not run: WHY -->

A ```text fence right behind a Python block is what the block prints; "..." stands for whatever differs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(
    r"^(?P<not_run><!-- not run: .+ -->\n+)?```python\n(?P<code>.*?)^```$(?:\n+```text\n(?P<printed>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
_COMMANDS = re.compile(r"^```(?:bash)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One Python fence of a page."""

    page: Path
    line: int
    """Of the page, from 1: that of the first line of code."""
    code: str
    printed: str | None
    """What the page says that it prints; None where it says nothing."""
    runs: bool

    def run(self, names: dict) -> None:
        """Runs the code; a traceback names the page and its line."""
        exec(compile("\n" * (self.line - 1) + self.code, str(self.page), "exec"), names)


def blocks(page: Path) -> list[Block]:
    """The Python of a page, also what is not to run."""
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, match.start("code")) + 1, match["code"], match["printed"], not match["not_run"])
        for match in _BLOCK.finditer(text)
    ]


def commands(page: Path) -> list[str]:
    """The lines of a page's shell fences that call `regrow`, without their comments."""
    lines = [line for fence in _COMMANDS.findall(page.read_text()) for line in fence.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if line.startswith("regrow ")]
