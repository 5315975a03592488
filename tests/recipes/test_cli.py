"""The command line: flags are frozen, help has examples, errors are one line with a remedy."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from pathlib import Path

import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner, Result

import regrow
from regrow.recipes.cli import app
from regrow.recipes.progress import PlainLines
from regrow.recipes.session import make_session

TRAIN_FLAGS = [
    "--method",
    "--density",
    "--storage",
    "--seed",
    "--epochs",
    "--batch-size",
    "--data-dir",
    "--out",
    "--resume",
    "--threads",
    "--set",
]
FLAGS = {
    "train": TRAIN_FLAGS,
    "list": [],
    "demo": ["--seed", "--density", "--out", "--threads"],
    "summary": [],
}
SHORT = ["train", "digits-mlp", "--density", "0.1", "--epochs", "3", "--threads", "1"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def run(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def assert_one_line(result: Result, code: int) -> str:
    assert result.exit_code == code, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.output
    return result.stderr


def test_the_commands_and_their_flags_are_frozen():
    commands = get_command(app).commands  # type: ignore[attr-defined]
    flags = {
        name: [option.opts[0] for option in command.params if option.opts[0].startswith("--")]
        for name, command in commands.items()
    }
    assert flags == FLAGS


@pytest.mark.parametrize("command", [[], *([name] for name in FLAGS)])
def test_every_help_shows_two_examples(command: list[str]):
    result = run(*command, "--help")
    assert result.exit_code == 0
    examples = re.sub(r"\x1b\[[0-9;]*m", "", result.output).split("Examples:")[1]
    shown = re.findall(rf"^ +{' '.join(['regrow', *command])}.*$", examples, re.MULTILINE)
    assert len(shown) == 2


def test_without_arguments_it_says_what_to_do_next():
    result = run()
    assert result.exit_code == 0
    assert "regrow demo" in result.stdout
    assert "regrow train" in result.stdout


def test_version():
    assert run("--version").stdout == f"regrow {regrow.__version__}, torch {torch.__version__.partition('+')[0]}\n"


def test_list_names_recipes_and_settings():
    output = run("list").stdout
    for word in ("digits-mlp", "lenet300-mnist", "lenet5-mnist", "weight_decay", "prune_rate"):
        assert word in output


def test_train_prints_a_line_an_epoch_and_leaves_the_default_folder(tmp_path: Path):
    result = run(*SHORT, "--set", "lr=0.05", "--batch-size", "64")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("validation error") == 3 + 1
    (folder,) = (tmp_path / "runs" / "digits-mlp").iterdir()
    assert folder.name.startswith("sparse-momentum-0.1-s0-")
    settings = json.loads((folder / "summary.json").read_text())["settings"]
    assert (settings["lr"], settings["batch_size"], settings["epochs"]) == (0.05, 64, 3)
    assert "checkpoint" not in result.stderr


def test_an_existing_folder_needs_resume():
    assert run(*SHORT).exit_code == 0
    assert "--resume" in assert_one_line(run(*SHORT), 2)
    again = run(*SHORT, "--resume")
    assert again.exit_code == 0
    assert "is finished already" in again.stdout
    assert "test error" in again.stdout


def test_ctrl_c_says_how_to_go_on_and_that_command_does(monkeypatch: pytest.MonkeyPatch):
    class Impatient(PlainLines):
        def batch(self, position):
            if position.step == 58:
                os.kill(os.getpid(), signal.SIGINT)

    words = [*SHORT, "--seed", "4", "--out", "my run", "--set", "dense=fc3", "--set", "max_density=0.9"]
    with monkeypatch.context() as patch:
        patch.setattr("regrow.recipes.progress.terminal_reporter", Impatient)
        message = assert_one_line(run(*words), 130)
    command = message.partition("go on with: ")[2].strip()
    assert shlex.split(command)[:2] == ["regrow", "train"]
    result = run(*shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    assert "going on at step 58" in result.stdout


@pytest.mark.parametrize(
    ("args", "remedy"),
    [
        (["train", "lenet300"], "did you mean lenet300-mnist"),
        (["train"], "regrow train --help"),
        (["trian"], "--help"),
        (["train", "digits-mlp", "--fast"], "regrow train --help"),
        (["train", "digits-mlp", "--density", "0"], "such as 0.05"),
        (["train", "digits-mlp", "--method", "magic"], "the methods are sparse-momentum, dense, static"),
        (["train", "digits-mlp", "--method", "dense", "--density", "0.5"], "leave out"),
        (["train", "digits-mlp", "--set", "depth=3"], "the settings are epochs"),
        (["train", "digits-mlp", "--epochs", "0"], "at least 1"),
        (["train", "digits-mlp", "--threads", "0"], "--help"),
    ],
)
def test_usage_errors(args: list[str], remedy: str):
    assert remedy in assert_one_line(run(*args), 2)


@pytest.mark.parametrize(
    ("args", "remedy"),
    [
        (["summary", "nowhere"], "regrow train has made"),
        (["train", "digits-mlp", "--set", "distribution=odd"], "use one of uniform"),
        (["train", "digits-mlp", "--set", "lr=1e20"], "--set lr="),
    ],
)
def test_failures(args: list[str], remedy: str):
    assert remedy in assert_one_line(run(*args), 1)


def test_missing_data_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("torchvision").datasets
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    result = run("train", "lenet300-mnist", "--data-dir", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert "REGROW_DATA" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_debug_shows_the_traceback():
    result = run("train", "digits-mlp", "--set", "distribution=odd", "--debug")
    assert isinstance(result.exception, ValueError)


def test_summary_shows_layers_of_folder_and_checkpoint():
    assert run(*SHORT, "--out", "run").exit_code == 0
    for path in ("run", "run/checkpoint.pt"):
        result = run("summary", path)
        assert result.exit_code == 0, result.output
        assert "fc1.weight" in result.stdout
        assert "5,020 / 50,200" in result.stdout
    assert run("train", "digits-mlp", "--method", "dense", "--epochs", "1", "--out", "dense").exit_code == 0
    assert "fc1.weight" in run("summary", "dense").stdout


def test_demo_compares_dense_and_sparse(monkeypatch: pytest.MonkeyPatch):
    from dataclasses import replace

    from regrow.recipes import catalog

    quick = replace(catalog.get_recipe("digits-mlp"), epochs=2)
    monkeypatch.setitem(catalog.RECIPES, "digits-mlp", lambda: quick)
    result = run("demo")
    assert result.exit_code == 0, result.output
    for text in ("5,020 of 50,200", "50,200 of 50,200", "test error", "runs/demo/dense-1-s0-", "regrow summary"):
        assert text in result.stdout
    assert "is finished already" in run("demo").stdout


def test_per_step_work_leaves_no_reference_to_parameters_that_change():
    """Compressed storage will resize parameters; a session must look them up."""
    from regrow.recipes import make_settings

    session = make_session(make_settings("digits-mlp", density=0.1), Path("."))
    held = [value for value in vars(session).values() if isinstance(value, torch.nn.Parameter)]
    assert held == []
