"""The pages of the documentation, and what stands in their fences.

The Python of a page runs block by block, in one set of names, as it stands. A block does not run that follows a line

    <!-- not run: WHY -->

A ```text fence right behind a Python block is what the block prints; "..." stands for whatever differs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: [^\n]+ -->\s*\Z")


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
    """Whether the page lets it run."""

    def run(self, names: dict) -> None:
        """Runs the code; a traceback names the page and its line."""
        exec(compile("\n" * (self.line - 1) + self.code, str(self.page), "exec"), names)


def blocks(page: Path) -> list[Block]:
    """The Python of a page, also what is not to run."""
    text = page.read_text()
    fences = list(_FENCE.finditer(text))
    found = []
    for fence, behind in zip_longest(fences, fences[1:]):
        if fence[1] == "python":
            prints = behind and behind[1] == "text" and not text[fence.end() : behind.start()].strip()
            line = text.count("\n", 0, fence.start(2)) + 1
            runs = not _NOT_RUN.search(text, 0, fence.start())
            found.append(Block(page, line, fence[2], behind[2] if behind and prints else None, runs))
    return found


def commands(page: Path) -> list[str]:
    """The lines of a page's shell fences that call `regrow`, without their comments."""
    fences = [content for kind, content in _FENCE.findall(page.read_text()) if kind in ("", "bash")]
    lines = [line for content in fences for line in content.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if line.startswith("regrow ")]
