"""README, docs/ and the notebook show what is true: tables, code, output, commands, links."""

import doctest
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from typer.main import get_command

import regrow
from pages import PAGES, ROOT, blocks, commands
from regrow.lab.cli.app import app


def name_of(page):
    return str(page.relative_to(ROOT))


def make_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(20, 40), torch.nn.ReLU(), torch.nn.Linear(40, 4))


def make_batches(number):
    generator = torch.Generator().manual_seed(0)
    for _ in range(number):
        x = torch.randn(32, 20, generator=generator)
        yield x, (x[:, :4] + x[:, -4:]).argmax(1)


def names_of_every_page():
    """What pages may use without making it: a small model, and batches that it can learn, as epochs of 20 too."""
    batches = list(make_batches(200))
    names = {"torch": torch, "regrow": regrow, "model": make_model(), "batches": batches}
    return {**names, "loader": batches[:20], "epochs": 10}


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.runs for block in blocks(page))], ids=name_of)
def test_the_python_of_a_page_runs(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = names_of_every_page()
    for block in blocks(page):
        if not block.runs:
            continue
        block.run(names)
        shown = capsys.readouterr().out
        if block.printed is not None:
            agrees = doctest.OutputChecker().check_output
            leniency = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert agrees(block.printed, shown, leniency), f"{name_of(page)}:{block.line} prints\n{shown}"


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name_of)
def test_the_commands_of_a_page_exist(page):
    """They parse; nothing is run."""
    for line in commands(page):
        command, words = get_command(app), shlex.split(line, comments=True)[1:]
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        command.make_context(line, words)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_out_of_the_site_lead_somewhere(page):
    """Links within docs/ are those of the site, which its build checks."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text())
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_files_that_code_and_pages_name_are_there():
    """Paths from the root of the project, in code and pages; the changelog names older ones."""
    pattern = re.compile(r"\b(?:docs|tests|benchmarks|src)/[\w./-]+\.(?:md|py|json)\b")
    files = [file for place in ("src", "tests", "benchmarks", "docs") for file in (ROOT / place).rglob("*.*")]
    texts = {file: file.read_text() for file in [*files, *ROOT.glob("*.md")] if file.suffix in (".py", ".md")}
    del texts[ROOT / "CHANGELOG.md"]
    named = {path for text in texts.values() for path in pattern.findall(text)}
    assert "docs/survival.md" in named
    assert not [path for path in sorted(named) if not (ROOT / path).exists()]


def test_tables_come_from_the_result_files():
    command = [sys.executable, str(ROOT / "benchmarks" / "tables.py"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0, "run python benchmarks/tables.py"


def test_the_reference_has_every_public_name():
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    described = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)", pages, re.MULTILINE)}
    assert set(regrow.__all__) <= described


def test_the_ten_lines_of_use_update_the_topology(capsys):
    """The README's block with a short training: it ends with the weights that it promises."""
    (block,) = blocks(ROOT / "README.md")
    names = names_of_every_page()
    exec(block.code, names)
    shown = capsys.readouterr().out
    assert "48 / 960" in shown
    assert "40 / 800" not in shown, "as many in the first layer as before"
    assert not regrow.sparse_weights(names["plain"])


def test_the_wide_layers_of_the_page_train():
    """The block as it stands, 100 times narrower."""
    (block,) = blocks(ROOT / "docs" / "wide.md")
    names = {}
    exec(block.code.replace("250_000", "2_500").replace("update_every=100", "update_every=3"), names)
    weight = regrow.sparse_weights(names["model"])["2.weight"]
    before = weight.indices
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        x = torch.randn(32, 784, generator=generator)
        names["optimizer"].zero_grad()
        torch.nn.functional.cross_entropy(names["model"](x), (x[:, :10] + x[:, -10:]).argmax(1)).backward()
        names["optimizer"].step()
    assert regrow.summary(names["model"]).active == 625 + 39_200 + 250
    assert not torch.equal(weight.indices, before)


def test_the_tutorial_builds_rigl_in_fifteen_lines_that_equal_regrows_own():
    build, train, further = blocks(ROOT / "docs" / "tutorial-own-method.md")
    assert build.code.strip().count("\n") + 1 <= 18  # two of imports, one of them empty
    names = names_of_every_page()
    for block in (build, train):
        block.run(names)
    own = regrow.sparsify(make_model(), density=0.1, distribution="erk", seed=0)
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
    further.run(names)
    exec(train.code.split("\n\n")[1], names)
    history = names["updater"].history
    assert {row["step"] for row in history} == set(range(10, 200, 10))
    assert sum(row["grown"] for row in history) == sum(row["pruned"] for row in history) > 100


OWN_METHOD = '''
"""A method of one's own."""

from __future__ import annotations

import torch
from torch import nn

import regrow.criteria as criteria
from regrow.schedules import cosine_decay

from .composed import ComposedUpdater

__all__ = ["MyMethod"]


class MyMethod(ComposedUpdater):
    """Prunes and grows at random.

    Args:
        model: a model from `sparsify`.
        optimizer: any.
        total_steps: optimizer steps of the whole training.
        update_every: optimizer steps between updates; None: by hand.
        exchange: share of the weights that is exchanged at first.
        seed: of the draws.
    """

    method = "my-method"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        exchange: float = 0.25,
        seed: int | None = None,
    ):
        super().__init__(
            model,
            optimizer,
            total_steps=total_steps,
            update_every=update_every,
            schedule=cosine_decay(exchange, end=total_steps),
            prune=lambda layer: torch.rand(layer.active, generator=layer.generator),
            grow=criteria.random,
            seed=seed,
        )
'''


def test_a_method_is_a_file_and_a_line_of_the_registry(tmp_path):
    """The last section of the tutorial, in a copy of the package: from the file to a training on the command line."""
    package = Path(regrow.__file__).parent
    shutil.copytree(package, tmp_path / "regrow", ignore=shutil.ignore_patterns("__pycache__", "csrc"))
    (tmp_path / "regrow/updaters/my_method.py").write_text(OWN_METHOD)
    with open(tmp_path / "regrow/updaters/registry.py", "a") as registry:
        registry.write("from .my_method import MyMethod as MyMethod\n")
    program = """
import regrow
from typer.testing import CliRunner
from regrow.lab.cli.app import app

assert regrow.MyMethod.method == "my-method" and "MyMethod" in regrow.__all__
for words in (["list"], ["settings", "my-method"], ["train", "digits-mlp", "--method", "my-method", "--density", "0.1",
              "--epochs", "2", "--set", "exchange=0.5", "--out", "run"]):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (words, result.output, result.exception)
    print(result.output)
"""
    where = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=where, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Prunes and grows at random." in done.stdout
    assert "share of the weights that is exchanged at first." in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "run/topology.jsonl").read_text().splitlines()]
    assert rows[0]["prune_rate"] == pytest.approx(0.25, abs=0.01)  # half as much after half of the training
    assert rows[0]["pruned"] == rows[0]["grown"] > 0


def test_the_notebook_runs_and_is_kept_without_output(tmp_path):
    """Cell by cell in a kernel, as a reader runs it."""
    notebook = nbformat.read(ROOT / "examples" / "first_steps.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    shown = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    dense, sparse, loaded, plain = map(float, re.findall(r"([\d.]+) % (?:wrong|loaded|as)", shown))
    assert dense < 12
    assert sparse < 12, "ten digits by chance: 90 %"
    assert sparse == loaded == plain
    assert any("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))
