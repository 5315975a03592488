"""`regrow doctor` says what the kernels run on, and the remedy where there are none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import regrow
from lab.commands import run
from regrow import ops


def test_doctor_says_what_the_kernels_run_on(monkeypatch: pytest.MonkeyPatch):
    facts = {**ops.info(), "loaded": True, "reason": "", "isa": "x86-64-v3", "allocator": {"MALLOC_ARENA_MAX": "1"}}
    monkeypatch.setattr(ops, "info", lambda: facts)
    result = run("doctor")
    assert result.exit_code == 0, result.output
    for text in (
        regrow.__version__,
        torch.__version__,
        "x86-64-v3",
        "MALLOC_ARENA_MAX=1",
        f"from {ops.info()['library']}",
    ):
        assert text in result.stdout


@pytest.mark.parametrize(
    ("environment", "found", "remedy"),
    [
        ({"REGROW_LIBRARY": "/nowhere/libregrow.so"}, "not loaded: /nowhere/libregrow.so does not exist", "unset"),
        pytest.param(  # tests/ops/test_isa.py has the same of the library
            {"REGROW_NO_NATIVE": "1"},
            "not loaded: REGROW_NO_NATIVE=1",
            "unset REGROW_NO_NATIVE",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_doctor_without_native_kernels_gives_the_remedy(environment, found, remedy):
    asked = subprocess.run(
        [sys.executable, "-m", "regrow.lab", "doctor"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert asked.returncode == 1
    assert found in asked.stdout
    error = asked.stderr.splitlines()[-1]  # after the warning
    assert error.startswith("error: no native kernels")
    assert f"Remedy: {remedy}" in error


@pytest.mark.skipif(not ops.available_isas(), reason="no native library")
@pytest.mark.parametrize("command", [["doctor"], ["bench", "layers", "--cases", "linear:8->8"]])
def test_an_instruction_set_that_is_not_there_is_one_line(command):
    asked = subprocess.run(
        [sys.executable, "-m", "regrow.lab", *command],
        capture_output=True,
        text=True,
        env={**os.environ, "REGROW_ISA": "sse9"},
    )
    assert asked.returncode == 1
    assert len(asked.stderr.splitlines()) == 1
    assert "REGROW_ISA='sse9' cannot be used here" in asked.stderr
