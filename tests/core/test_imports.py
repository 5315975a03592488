"""Rooms of the house: imports go downward only, and the core needs torch alone."""

import ast
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

import regrow

ROOT = Path(regrow.__file__).parent
LOW = {
    "topology",
    "allocation",
    "schedule",
    "criteria",
    "random",
    "lazy",
    "products",
    "factored",
    "weights",
    "distributed",
    "optimizers",
    "moments",
    "momentum",
    "flops",
    "sharing",
    "view",
    "alignment",
    "rows",
    "watch",
    "fitting",
    "entering",
}
PACKAGES = {
    "ops": set(),
    "nn": {"ops"},
    "weights": {"nn"},
    "distributed": {"nn", "weights"},
    "updaters": LOW,
    "export": {"atomic", "sparsify", "storage", "stray", "weights"},
}
ALLOWED = {
    "topology": set(),
    "allocation": {"topology"},
    "schedule": set(),
    "criteria": {"lazy"},
    "sharing": {"topology", "allocation"},
    "view": {"lazy", "moments", "momentum", "optimizers", "weights"},
    "random": set(),
    "lazy": {"random"},
    "products": {"topology", "weights"},
    "factored": {"products"},
    "initial": {"topology", "allocation", "lazy", "nn", "random"},
    "readers": set(),
    "extras": {"nn"},
    "reparametrised": set(),
    "storage": {"extras", "nn", "readers"},
    "optimizers": {"weights"},
    "twins": set(),
    "probe": {"twins", "weights"},
    "fitting": {"optimizers", "probe", "weights"},
    "entering": {"optimizers", "probe", "weights"},
    "moments": {"probe", "twins", "weights"},
    "momentum": {"distributed", "factored", "lazy", "moments", "nn", "watch", "weights"},
    "alignment": {"entering", "weights"},
    "watch": {"weights"},
    "stray": {"weights"},
    "rows": {"weights"},
    "pickles": {"distributed", "nn", "weights"},
    "flops": {"nn", "weights"},
    "sparsify": {"distributed", "extras", "initial", "nn", "reparametrised", "storage", "stray", "weights"},
    "saliency": {"sparsify"},
    "atomic": set(),
    "checked": set(),
    "files": {"atomic", "checked", "export", "sparsify", "storage", "stray", "weights"},
    "__init__": LOW | {"sparsify", "updaters", "pickles", "saliency", "stray", "export", "files"},
}
CORE = sorted(path.stem for path in ROOT.glob("*.py"))
FOREIGN = {"torch"} | set(sys.stdlib_module_names)
OF_PACKAGE = {"export": {"safetensors"}}
"""Imported when a file of that kind is written or read; others are optional (`regrow.export._optional`)."""


def imports(path):
    """(rooms of ours, foreign top-level names) that a file imports, at any depth of its code."""
    ours, foreign = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" if node.module == "regrow" else node.module for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".")
            ours |= {base[0]} if base[0] else {alias.name for alias in node.names}
            continue
        else:
            continue
        for name in names:
            top, *rest = name.split(".")
            if top == "regrow":
                ours.add(rest[0] if rest else "__init__")
            else:
                foreign.add(top)
    return ours, foreign


@pytest.mark.parametrize("room", CORE)
def test_a_room_of_the_core_knows_only_the_rooms_below(room):
    assert room in ALLOWED, f"{room} is a new room: say here what it may import"
    ours, foreign = imports(ROOT / f"{room}.py")
    assert ours <= ALLOWED[room], f"{room} imports {ours - ALLOWED[room]}"
    assert foreign <= FOREIGN, f"{room} imports {foreign - FOREIGN}"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_of_the_core_knows_only_the_rooms_below(package):
    for file in (ROOT / package).rglob("*.py"):
        tree = ast.parse(file.read_text())
        relative = {node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} - {0, 1}
        assert not relative, f"{file} reaches above its package; import from regrow by name"
        from_ours = [
            name
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and node.level == 0
                else []
            )
            if name.split(".")[0] == "regrow"
        ]
        rooms = {name.split(".")[1] for name in from_ours} - {package}
        assert rooms <= PACKAGES[package], f"{file} imports {rooms - PACKAGES[package]}"
        assert imports(file)[1] <= FOREIGN | OF_PACKAGE.get(package, set())


def test_reports_read_files_and_know_nothing_of_recipes():
    for file in (ROOT / "report").glob("*.py"):
        ours, foreign = imports(file)
        assert ours <= {"atomic"} | {path.stem for path in (ROOT / "report").glob("*.py")}, f"{file} imports {ours}"
        assert foreign <= {"altair", "jinja2", "matplotlib", "numpy", "PIL", "vl_convert"} | FOREIGN - {"torch"}


FRAMEWORKS = {"lightning": {"lightning", "pytorch_lightning"}, "huggingface": {"transformers"}}


def test_each_integration_knows_its_own_framework_and_little_of_ours():
    for file in (ROOT / "integrations").glob("*.py"):
        ours, foreign = imports(file)
        assert ours <= {"atomic", "distributed", "mean", "rows", "updaters", "weights"}, f"{file} imports {ours}"
        assert foreign <= FOREIGN | FRAMEWORKS.get(file.stem, set()), f"{file} imports {foreign}"


def test_the_walker_sees_every_form(tmp_path):
    source = """
import regrow.files, os
from regrow import momentum
from regrow.weights import x
from . import topology
from .schedule import y
from .nn.linear import z
def f():
    import matplotlib.pyplot as plt
"""
    (tmp_path / "m.py").write_text(source)
    ours, foreign = imports(tmp_path / "m.py")
    assert ours == {"files", "momentum", "weights", "topology", "schedule", "nn"}
    assert foreign == {"os", "matplotlib"}


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
assert not [name for name in sys.modules if name.startswith("regrow.recipes")]
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


def test_the_public_names_are_those_listed():
    assert all(hasattr(regrow, name) for name in regrow.__all__)
    wanted = {"sparsify", "sparse_weights", "summary", "densify", "save", "load", "SparseMomentum", "SparseWeight"}
    assert wanted <= set(regrow.__all__) <= set(dir(regrow))
    tree = ast.parse((ROOT / "__init__.py").read_text())
    seen_by_type_checkers = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    }
    assert seen_by_type_checkers == set(regrow.__all__)


LAZY = """
import sys, regrow
assert "torch" not in sys.modules
{first}
assert callable(regrow.sparsify)
assert regrow.sparsify is sys.modules["regrow.sparsify"].sparsify
assert regrow.nn.SparseLinear and regrow.flops.__name__ == "regrow.flops"
assert "torch._dynamo" not in sys.modules  # which takes longer than all the rest
try:
    regrow.nothing
except AttributeError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "first", ["", "import regrow.sparsify", "import regrow.files", "from regrow.sparsify import summary"]
)
def test_names_load_when_they_are_used_whatever_was_imported_before(first):
    done = subprocess.run([sys.executable, "-c", LAZY.format(first=first)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "module 'regrow' has no attribute 'nothing'\n", done.stderr
