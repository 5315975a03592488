"""Every instruction set that this machine runs, and what happens where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from regrow.ops import available_isas, info

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SHOW = "import regrow.ops as o; print(o.info()['isa'])"


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        cwd=HERE,
    )


@pytest.mark.parametrize("isa", [isa for isa in available_isas() if isa != info()["isa"]])
def test_the_kernel_tests_pass_under(isa):
    done = python(
        "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "test_kernels.py", "test_activations.py", REGROW_ISA=isa
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("isa", available_isas())
def test_an_instruction_set_can_be_forced(isa):
    assert python("-c", SHOW, REGROW_ISA=isa).stdout.strip() == isa


@pytest.mark.skipif(not available_isas(), reason="no native library")
def test_an_instruction_set_that_is_not_there_is_an_error_where_it_is_needed():
    show = "import regrow.ops as o; print(o.info()['isa'], o.info()['remedy'])"
    done = python("-c", show, REGROW_ISA="sse9")
    assert done.stdout.startswith("none unset REGROW_ISA"), done.stderr
    use = "import torch; from regrow.nn import SparseLinear; SparseLinear(2, 2)(torch.ones(1, 2))"
    done = python("-c", use, REGROW_ISA="sse9")
    assert done.returncode != 0
    assert "REGROW_ISA='sse9' cannot be used here" in done.stderr
    assert "Remedy: unset REGROW_ISA" in done.stderr


def test_without_the_library_the_reference_runs_and_says_so_once():
    done = python("-c", "import regrow.ops, regrow.nn; " + SHOW, REGROW_NO_NATIVE="1")
    assert done.stdout.strip() == "reference"
    assert done.stderr.count("native kernels are not loaded") == 1
    assert "Remedy: unset REGROW_NO_NATIVE" in done.stderr
    assert "compiler" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ({"CXX": "/nonexistent"}, "unset CXX or name a C++ compiler"),
        ({"REGROW_NO_NATIVE": "1"}, "unset REGROW_NO_NATIVE"),
    ],
)
def test_a_build_without_kernels_leaves_its_remedy_for_the_import(tmp_path, setting, remedy):
    library = tmp_path / "regrow/ops/libregrow.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"of an earlier build")
    build = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(tmp_path)]
    built = subprocess.run(build, env={**os.environ, **setting}, capture_output=True, text=True, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    assert remedy in built.stderr
    assert not library.exists()
    done = python("-c", SHOW, REGROW_LIBRARY=str(library))
    assert done.stdout.strip() == "reference"
    assert done.stderr.count("native kernels are not loaded") == 1
    assert f"Remedy: {remedy}" in done.stderr


def test_the_modules_work_without_the_library():
    layers = HERE.parent / "nn" / "test_layers.py"
    done = python("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(layers), REGROW_NO_NATIVE="1")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not available_isas(), reason="no native library")
def test_a_library_that_does_not_load_says_why(tmp_path):
    broken = tmp_path / "libregrow.so"
    broken.write_bytes(b"not a library")
    done = python("-c", "import regrow.ops as o; print(o.info()['reason'])", REGROW_LIBRARY=str(broken))
    assert "does not load" in done.stdout, done.stderr
    assert "does not load" in done.stderr


@pytest.mark.skipif(not available_isas(), reason="no native library")
def test_a_library_of_something_else_says_so():
    import _ctypes

    done = python("-c", "import regrow.ops as o; print(o.info()['reason'])", REGROW_LIBRARY=_ctypes.__file__)
    assert "regrow_isas" in done.stdout, done.stderr
