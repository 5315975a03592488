"""docs/works-with.md: each cell of its tables is a test."""

import os
import traceback
import warnings

import pytest
import torch

import regrow
from compatibility.optimizers import train
from compatibility.tools import PROGRAMS
from pages import ROOT

PAGE = ROOT / "docs" / "works-with.md"
HOME = os.path.dirname(regrow.__file__)


def rows(heading):
    """The cells of the tables under a heading of the page."""
    text = PAGE.read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [
        [cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in text.splitlines() if "|" in line
    ]
    return [cells for cells in lines if cells[1] in ("yes", "refused")]


def outcome(act, *arguments):
    """ "yes", or "refused" where regrow's own error says why; anything else is a fault, and raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ended = act(*arguments)
    except (ValueError, RuntimeError, TypeError) as error:
        if not traceback.extract_tb(error.__traceback__)[-1].filename.startswith(HOME) or len(str(error)) < 40:
            raise
        return "refused", None
    return "yes", ended


OPTIMIZERS = rows("Optimizers")
TOOLS = rows("Tools")


@pytest.mark.parametrize("cells", OPTIMIZERS, ids=lambda cells: cells[0].strip("`"))
@pytest.mark.parametrize("method", ["RigL", "SparseMomentum"])
def test_optimizer(cells, method):
    """What works gives the same dense weights in both storages, but for rounding."""
    name, first = cells[0].strip("`"), {"RigL": 1, "SparseMomentum": 3}[method]
    found = [outcome(train, name, method, storage) for storage in ("masked", "compressed")]
    assert [verdict for verdict, _ in found] == cells[first : first + 2]
    ends = [weights for verdict, weights in found if verdict == "yes"]
    for one, other in zip(ends[0], ends[-1], strict=True) if ends else ():
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)


@pytest.mark.parametrize("cells", TOOLS, ids=lambda cells: cells[0])
@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_tool(cells, storage):
    verdict, _ = outcome(PROGRAMS[cells[0]], storage)
    assert verdict == cells[{"masked": 1, "compressed": 2}[storage]]


def test_every_program_has_its_row():
    assert sorted(cells[0] for cells in TOOLS) == sorted(PROGRAMS)
