"""README and docs show what the result files hold, and the README's code runs."""

import re
import subprocess
import sys
from pathlib import Path

import torch

import regrow

ROOT = Path(__file__).resolve().parents[1]


def test_tables_come_from_the_result_files():
    command = [sys.executable, str(ROOT / "benchmarks" / "tables.py"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0, "run python benchmarks/tables.py"


def test_the_ten_lines_of_use_run(capsys):
    """The block as it stands, with a small model, a few batches and a short training."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    block = block.replace("70_000", "6").replace("703", "2")
    generator = torch.Generator().manual_seed(0)
    names = {
        "model": torch.nn.Sequential(torch.nn.Linear(20, 40), torch.nn.ReLU(), torch.nn.Linear(40, 4)),
        "batches": [
            (torch.randn(8, 20, generator=generator), torch.randint(4, (8,), generator=generator)) for _ in range(6)
        ],
    }
    exec(block, names)
    assert "48 / 960" in capsys.readouterr().out
    assert not regrow.sparse_weights(names["plain"])
