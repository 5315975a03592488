"""Programs of the kernels' developers keep compiling."""

import shutil
import subprocess
from pathlib import Path

import pytest

import regrow

FOLDER = Path(regrow.__file__).parent / "ops/csrc/dev"


@pytest.mark.skipif(not FOLDER.exists(), reason="these programs are in checkouts only")
@pytest.mark.skipif(not shutil.which("g++"), reason="no g++")
def test_lanes_between_linear_layers_compile():
    command = ["g++", "-std=gnu++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wno-psabi", "-DREGROW_ISA=base"]
    done = subprocess.run([*command, FOLDER / "lanes.cpp"], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
