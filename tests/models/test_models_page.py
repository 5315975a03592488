"""The patterns that docs/models.md recommends fit the networks, and leave what can be compressed."""

import re
from pathlib import Path

import pytest
from torch import nn

import regrow
from models.zoo import CASES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
(BLOCK,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
MASKED = {"gpt2", "lstm"}


@pytest.mark.parametrize("line", BLOCK.strip().splitlines())
def test_patterns(line):
    name = re.match(r"regrow\.sparsify\((\w+)", line)[1]
    model = CASES[name].make()
    exec(line, {"regrow": regrow, "nn": nn, name: model})
    assert {row.storage for row in regrow.summary(model).rows} == {"masked" if name in MASKED else "compressed"}
