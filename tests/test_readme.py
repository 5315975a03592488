"""README and docs show what the result files hold, and the README's code runs."""

import re
import subprocess
import sys
from pathlib import Path

import torch

import regrow

ROOT = Path(__file__).resolve().parents[1]


def blocks(page):
    """The Python of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def batches_of(number, inputs, classes):
    generator = torch.Generator().manual_seed(0)
    for _ in range(number):
        x = torch.randn(32, inputs, generator=generator)
        yield x, (x[:, :classes] + x[:, -classes:]).argmax(1)


def test_tables_come_from_the_result_files():
    command = [sys.executable, str(ROOT / "benchmarks" / "tables.py"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0, "run python benchmarks/tables.py"


def test_the_ten_lines_of_use_run(capsys):
    """The block as it stands, with a small model, a few batches and a short training."""
    (block,) = blocks("README.md")
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


def test_the_wide_layers_of_the_page_train():
    """The block as it stands, 100 times narrower."""
    (block,) = blocks("docs/wide.md")
    names = {}
    exec(block.replace("250_000", "2_500").replace("update_every=100", "update_every=3"), names)
    weight = regrow.sparse_weights(names["model"])["2.weight"]
    before = weight.indices
    for x, y in batches_of(4, 784, 10):
        names["optimizer"].zero_grad()
        torch.nn.functional.cross_entropy(names["model"](x), y).backward()
        names["optimizer"].step()
    assert regrow.summary(names["model"]).active == 625 + 39_200 + 250
    assert not torch.equal(weight.indices, before)


def make_tutorial_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(20, 40), torch.nn.ReLU(), torch.nn.Linear(40, 4))


def test_the_tutorial_builds_rigl_in_fifteen_lines_that_equal_regrows_own(capsys):
    build, train, further = blocks("docs/tutorial-own-method.md")
    assert build.strip().count("\n") + 1 <= 18  # two of imports, one of them empty
    names = {"model": make_tutorial_model(), "batches": list(batches_of(200, 20, 4))}
    for block in (build, train):
        exec(block, names)
    assert "'step': 10" in capsys.readouterr().out
    own = regrow.sparsify(make_tutorial_model(), density=0.1, distribution="erk", seed=0)
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.9)
    updater = regrow.RigL(own, optimizer, total_steps=200, update_every=10)
    for inputs, targets in names["batches"]:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(own(inputs), targets)
        loss.backward()
        optimizer.step()
    assert loss < 1.0, "four classes by chance: 1.39"
    assert updater.history == names["updater"].history
    for ours, theirs in zip(own.parameters(), names["model"].parameters(), strict=True):
        assert torch.equal(ours, theirs)
    exec(further, names)
    exec(train.split("\n\n")[1], names)
    history = names["updater"].history
    assert {row["step"] for row in history} == set(range(10, 200, 10))
    assert sum(row["grown"] for row in history) == sum(row["pruned"] for row in history) > 100
