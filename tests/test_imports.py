"""The core needs torch alone, and loads when it is used; which module may import which, import-linter checks."""

import ast
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

import regrow
from regrow.updaters import registry

ROOT = Path(regrow.__file__).parent
FOREIGN = {"torch"} | set(sys.stdlib_module_names)
NEEDS = {
    "export": {"safetensors"},
    "topology/selection.py": {"numpy"},
    "lab": None,
    "integrations/lightning.py": {"lightning", "pytorch_lightning"},
    "integrations/huggingface.py": {"transformers"},
}
"""What parts import beside torch: any package for None."""


def foreign(path):
    """The other people's packages that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found - {"regrow"}


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_the_core_imports_torch_and_the_standard_library(file):
    name = file.relative_to(ROOT).as_posix()
    more = [needs for part, needs in NEEDS.items() if name == part or name.startswith(f"{part}/")]
    if None not in more:
        assert foreign(file) <= FOREIGN.union(*more)


def test_reports_are_made_without_torch():
    for file in (ROOT / "lab/report").glob("*.py"):
        assert foreign(file) <= {"altair", "jinja2", "numpy", "PIL", "vl_convert"} | FOREIGN - {"torch"}


def test_imports_are_found_wherever_they_stand(tmp_path):
    (tmp_path / "m.py").write_text(
        "import regrow.files, os\nfrom .x import y\nfrom a.b import c\ndef f():\n    import altair.theme as t\n"
    )
    assert foreign(tmp_path / "m.py") == {"os", "a", "altair"}


PROGRAM = '''
import sys

class Hiding:
    """A finder that finds nothing but torch, what torch needs, and the standard library."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        seen = top in ALLOWED | set(sys.stdlib_module_names) or top.startswith("_sysconfigdata")
        return self.finder.find_spec(name, path, target) if seen else None

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
import regrow, torch
model = regrow.sparsify(torch.nn.Linear(8, 8), 0.5)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
regrow.SparseMomentum(model, optimizer, total_steps=9, update_every=1)
for _ in range(2):
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
regrow.save(PATH, model)
print(regrow.summary(regrow.load(PATH, torch.nn.Linear(8, 8))).active)
assert not [name for name in sys.modules if name.startswith("regrow.lab")]
try:
    import pytest
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("nothing was blocked")
'''


def torch_and_what_it_needs():
    needed = {re.match(r"[\w-]+", line)[0].replace("-", "_") for line in requires("torch") or ()}
    return {"torch", "functorch", "numpy", "regrow", "torchgen", "markupsafe", "mpmath"} | needed


def test_the_core_runs_where_there_is_torch_and_nothing_else(tmp_path):
    program = f"ALLOWED = {torch_and_what_it_needs()!r}\nPATH = {str(tmp_path / 'm.pt')!r}\n{PROGRAM}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "32"


def test_the_public_names_are_there_and_methods_are_among_them():
    assert all(hasattr(regrow, name) for name in regrow.__all__)
    wanted = {"sparsify", "sparse_weights", "summary", "densify", "save", "load", "SparseWeight"}
    methods = {name for name, value in vars(registry).items() if isinstance(value, type)}
    assert {"SparseMomentum", "SET", "Static"} <= methods
    assert wanted | methods <= set(regrow.__all__) <= set(dir(regrow))


def test_type_checkers_see_the_public_names():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    seen = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    }
    methods = {name for name, value in vars(registry).items() if isinstance(value, type)}
    assert seen - {"*", "_renamed"} == set(regrow.__all__) - methods


LAZY = """
import sys, regrow
assert "torch" not in sys.modules
{first}
assert callable(regrow.sparsify)
assert regrow.nn.SparseLinear and regrow.flops.__name__ == "regrow.flops"
assert "torch._dynamo" not in sys.modules  # which takes longer than all the rest
try:
    regrow.nothing
except AttributeError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "first", ["", "import regrow.serialization", "from regrow.updaters import SET", "from regrow import *"]
)
def test_names_load_when_they_are_used_whatever_was_imported_before(first):
    done = subprocess.run([sys.executable, "-c", LAZY.format(first=first)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "module 'regrow' has no attribute 'nothing'\n", done.stderr
