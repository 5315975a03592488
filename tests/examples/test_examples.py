"""Each example runs as it stands, and asserts what it shows."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples"
NEEDS = {
    "accelerate_loop": ["accelerate"],
    "huggingface_trainer": ["transformers", "accelerate"],
    "lightning_trainer": ["pytorch_lightning"],
}
SLOW = {"torch_compile"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=pytest.mark.slow if path.stem in SLOW else ())
        for path in sorted(FOLDER.glob("*.py"))
    ],
)
def test_example(name, capsys):
    for package in NEEDS.get(name, []):
        pytest.importorskip(package)
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out


def test_the_table_names_examples():
    assert NEEDS.keys() | SLOW <= {path.stem for path in FOLDER.glob("*.py")}
