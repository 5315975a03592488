"""`regrow report`: one page of what was measured and trained."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from regrow.lab.errors import RunError, UsageError

__all__ = ["DEFAULT_PAGE", "make_report"]

DEFAULT_PAGE = Path("report.html")


def make_report(paths: Sequence[Path], out: Path, refresh: int | None = None) -> bool:
    """Writes the page, and says whether all runs on it are finished.

    Args:
        paths: as for `read_inputs`.
        refresh: seconds after which the page reloads itself.

    Raises:
        UsageError: a path holds nothing that can be shown. RunError: the libraries of the page are not here.
    """
    from regrow.lab.report.inputs import ReportError, read_inputs

    try:
        from regrow.lab.report.page import write_page
    except ImportError as error:
        raise RunError(f"no page: {error}; pip install 'regrow[report]'") from None
    try:
        inputs = read_inputs(paths)
    except ReportError as error:
        raise UsageError(str(error)) from None
    words = ["regrow", "report", *map(str, paths), *([] if out == DEFAULT_PAGE else ["--out", str(out)])]
    write_page(inputs, out, shlex.join(words), refresh)
    return inputs.finished
