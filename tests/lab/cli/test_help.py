"""Flags are frozen, help has examples and fills its lines."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from lab.commands import run
from regrow.lab.cli.app import app

TRAIN_FLAGS = [
    "--method",
    "--density",
    "--epochs",
    "--time-like",
    "--seed",
    "--set",
    "--out",
    "--resume",
    "--data-dir",
    "--threads",
    "--open-report",
    "--storage",
    "--batch-size",
    "--images",
    "--warmup",
    "--precision",
    "--share",
    "--flops-budget",
    "--max-density",
    "--update-every",
    "--window",
    "--window-batch",
    "--max-seconds",
    "--topology-every",
    "--logger",
    "--deterministic",
    "--devices",
    "--nodes",
    "--strategy",
    "--workers",
    "--skip-corrupt",
]
COMPARE_FLAGS = [
    "--methods",
    "--densities",
    "--seeds",
    "--vary",
    "--set",
    "--epochs",
    "--storage",
    "--out",
    "--data-dir",
    "--executor",
    "--jobs",
    "--threads",
]
FLAGS = {
    "train": TRAIN_FLAGS,
    "compare": COMPARE_FLAGS,
    "report": ["--out", "--live", "--every", "--open"],
    "features": ["--out", "--split", "--images", "--data-dir"],
    "list": [],
    "settings": ["--recipe"],
    "demo": ["--seed", "--density", "--out", "--threads"],
    "summary": [],
    "export": ["--to", "--out", "--optimizer"],
    "doctor": [],
    "bench": [],
    "bench layers": ["--cases", "--densities", "--batch", "--threads", "--json", "--kinds", "--seconds", "--clock"],
    "bench step": [
        "--model",
        "--density",
        "--batch",
        "--threads",
        "--topology",
        "--json",
        "--kinds",
        "--seconds",
        "--memory",
    ],
    "bench inference": [
        "--model",
        "--density",
        "--batches",
        "--threads",
        "--topology",
        "--json",
        "--kinds",
        "--seconds",
    ],
    "bench run": [
        "--model",
        "--density",
        "--topology",
        "--share",
        "--flops-budget",
        "--window",
        "--window-batch",
        "--threads",
        "--kinds",
        "--data-dir",
        "--json",
    ],
}


def commands_below(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield before + name, command
        if hasattr(command, "commands"):
            yield from commands_below(command, f"{before}{name} ")


def test_the_commands_and_their_flags_are_frozen():
    flags = {
        name: [option.opts[0] for option in command.params if option.opts[0].startswith("--")]
        for name, command in commands_below(get_command(app))
    }
    assert flags == FLAGS


@pytest.mark.parametrize("command", [[], *(name.split() for name in FLAGS)])
def test_every_help_shows_two_examples(command: list[str]):
    result = run(*command, "--help")
    assert result.exit_code == 0
    examples = re.sub(r"\x1b\[[0-9;]*m", "", result.output).split("Examples:")[1]
    shown = re.findall(rf"^ +{' '.join(['regrow', *command])}.*$", examples, re.MULTILINE)
    assert len(shown) == 2


@pytest.mark.parametrize("command", FLAGS)
def test_help_fills_its_lines(command: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    prose = run(*command.split(), "--help").output.split("Examples:")[0]
    for paragraph in re.split(r"\n\s*\n", prose):
        lines = [line.strip() for line in paragraph.splitlines() if line.strip()]
        for line, following in itertools.pairwise(lines):
            assert len(f"{line} {following.split()[0]}") > 78, line


def test_help_does_not_wait_for_torch():
    program = "import sys; from regrow.lab.cli.app import app; sys.argv[1:] = ['train', '--help']; app()"
    show = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {program}"
    asked = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True)
    assert "RECIPE" in asked.stdout
    assert asked.stdout.splitlines()[-1] == "False"
