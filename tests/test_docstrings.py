"""The examples in docstrings of what is imported from regrow itself run, and what they show is true."""

import doctest
import importlib
import importlib.util
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

import regrow


class Checker(doctest.OutputChecker):
    """An example that shows no output does not promise that there is none."""

    def check_output(self, want, got, optionflags):
        return want == "" or super().check_output(want, got, optionflags)


def make_model():
    return nn.Sequential(OrderedDict(fc1=nn.Linear(784, 30), act=nn.ReLU(), fc2=nn.Linear(30, 10)))


ROOT = Path(regrow.__file__).parent
MODULES = sorted(path.stem for path in ROOT.glob("*.py") if path.stem != "__init__")
MODULES += sorted(
    f"{room}.{path.stem}"
    for room in ("distributed", "export", "updaters")
    for path in (ROOT / room).glob("*.py")
    if path.stem != "__init__"
)
# the other integrations need their frameworks, and examples/ shows them
MODULES += [f"integrations.{name}" for name in ("averaging", "clipping", "mean")]
NO_EXAMPLE = {"export", "flops", "Summary", "SparseWeight", "load"}  # modules, results; save shows load
DENSE_MODEL = {"regrow", "regrow.updaters.sparse_momentum.SparseMomentum"}  # these make `model` sparse themselves


def examples():
    for name in ["regrow", *(f"regrow.{module}" for module in MODULES)]:
        for test in doctest.DocTestFinder().find(importlib.import_module(name), name):
            if test.examples and (name != "regrow" or test.name == "regrow"):
                yield pytest.param(test, id=test.name)


@pytest.mark.parametrize("test", list(examples()))
def test_example(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = make_model() if test.name in DENSE_MODEL else regrow.sparsify(make_model(), 0.1)
    test.globs |= {"torch": torch, "regrow": regrow, "model": model, "make_model": make_model}
    test.globs |= {"batch": torch.zeros(2, 784)}
    report = []
    failed, attempted = doctest.DocTestRunner(checker=Checker(), optionflags=doctest.ELLIPSIS).run(
        test, out=report.append, clear_globs=False
    )
    assert attempted
    assert not failed, "".join(report)


def test_public_things_have_an_example():
    public = [getattr(regrow, name) for name in regrow.__all__ if name not in NO_EXAMPLE]
    public += [getattr(regrow.export, name) for name in regrow.export.__all__]
    lacking = [thing.__name__ for thing in public if ">>>" not in (thing.__doc__ or "")]
    assert not lacking


def test_every_parameter_of_the_reference_has_an_entry_of_its_own():
    griffe = pytest.importorskip("griffe", reason="griffe comes with the documentation's tools")
    spec = importlib.util.spec_from_file_location("docstrings", ROOT.parents[1] / "docs/docstrings.py")
    docstrings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docstrings)
    package = griffe.load("regrow", search_paths=[str(ROOT.parent)], resolve_aliases=False)
    assert not list(docstrings.complaints(package))
