"""The command line: what its commands do, and errors of one line with a remedy."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

import regrow
from lab.commands import assert_one_line, run
from regrow.lab.errors import RunError
from regrow.lab.training.progress import PlainLines

SHORT = ["train", "digits-mlp", "--density", "0.1", "--epochs", "3", "--threads", "1"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def test_without_arguments_it_says_what_to_do_next():
    result = run()
    assert result.exit_code == 0
    assert "regrow demo" in result.stdout
    assert "regrow train" in result.stdout


def test_version():
    assert run("--version").stdout == f"regrow {regrow.__version__}, torch {torch.__version__.partition('+')[0]}\n"


def test_list_names_recipes_and_settings():
    output = run("list").stdout
    for word in (
        "digits-mlp",
        "lenet300-mnist",
        "lenet5-mnist",
        "vgg16-d-cifar10",
        "wrn-28-2-cifar10",
        "deep-rewiring",
        "regrow settings",
    ):
        assert word in output


def test_settings_are_explained_with_and_without_a_method():
    assert all(word in run("settings").stdout for word in ("weight_decay", "label_smoothing", "clip_norm"))
    assert "rewind_epochs" in run("settings", "lottery").stdout
    output = run("settings", "rigl").stdout
    assert all(word in output for word in ("stop_fraction", "0.75", "prune_rate", "window_batch"))
    wide = run("settings", "set", "--recipe", "resnet50-imagenet").stdout
    assert all(word in wide for word in ("0.2", "Defaults are those of resnet50-imagenet"))
    assert "dense has no settings of its own" in run("settings", "dense").stdout
    assert_one_line(run("settings", "magic"), 2)


def test_options_that_recipes_have_no_field_for_reach_the_method(tmp_path: Path):
    out = tmp_path / "run"
    command = ("train", "digits-mlp", "--method", "rigl", "--density", "0.1", "--epochs", "1", "--out", str(out))
    assert run(*command, "--set", "stop_fraction=0.5").exit_code == 0
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert settings["stop_fraction"] == 0.5
    assert "is finished already" in run(*command, "--set", "stop_fraction=0.5", "--resume").stdout
    assert "stop_fraction: 0.5 there" in run(*command, "--resume").stderr
    assert_one_line(run("train", "digits-mlp", "--method", "set", "--set", "stop_fraction=0.5"), 2)


@pytest.mark.parametrize("wrong", ["redistribution=none", "schedule=linear"])
def test_a_setting_that_a_method_does_not_have_is_refused_by_either_of_its_names(wrong: str):
    result = run(*SHORT, "--method", "gmp", "--set", wrong)
    assert "the method gmp has no" in assert_one_line(result, 2)


@pytest.mark.parametrize(
    ("old", "new"), [("share=none", "redistribution=gradient"), ("prune_schedule=linear", "schedule=cosine")]
)
def test_a_setting_by_both_of_its_names_stands_twice(old: str, new: str):
    assert "is given twice" in assert_one_line(run(*SHORT, "--set", old, "--set", new), 2)


def test_train_prints_a_line_an_epoch_and_leaves_the_default_folder(tmp_path: Path):
    result = run(*SHORT, "--set", "lr=0.05", "--batch-size", "64")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("validation error") == 3 + 1
    (folder,) = (tmp_path / "runs" / "digits-mlp").iterdir()
    assert folder.name.startswith("sparse-momentum-0.1-s0-")
    settings = json.loads((folder / "summary.json").read_text())["settings"]
    assert (settings["lr"], settings["batch_size"], settings["epochs"]) == (0.05, 64, 3)
    assert "checkpoint" not in result.stderr


def test_options_reach_the_settings_and_the_run():
    words = [
        "--images",
        "640",
        "--warmup",
        "0.5",
        "--precision",
        "bf16-mixed",
        "--share",
        "momentum",
        "--flops-budget",
        "0.4",
        "--max-density",
        "0.9",
    ]
    words += ["--update-every", "15", "--window", "all", "--window-batch", "16", "--storage", "masked"]
    result = run(*SHORT, *words, "--topology-every", "2", "--max-seconds", "1e9", "--out", "run")
    assert result.exit_code == 0, result.output
    summary = json.loads(Path("run/summary.json").read_text())
    assert (summary["steps"], summary["updates"], summary["storage"]) == (60, 3, "masked")
    given = {
        "images": 640,
        "warmup_epochs": 0.5,
        "precision": "bf16-mixed",
        "share": "momentum",
        "flops_budget": 0.4,
        "max_density": 0.9,
    }
    given |= {"update_every": 15, "window": "all", "window_batch": 16}
    assert {key: summary["settings"][key] for key in given} == given
    assert Path("run/topology-epoch2.npz").exists()


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

    words = [*SHORT, "--seed", "4", "--out", "my run", "--set", "dense=fc3", "--max-density", "0.9"]
    words += ["--topology-every", "9"]
    with monkeypatch.context() as patch:
        patch.setattr("regrow.lab.training.progress.terminal_reporter", Impatient)
        message = assert_one_line(run(*words), 130)
    command = message.partition("continue with: ")[2].strip()
    assert shlex.split(command)[:2] == ["regrow", "train"]
    assert "--topology-every 9" in command
    result = run(*shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    assert "resuming at step 58" in result.stdout


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
        (
            ["train", "digits-mlp", "--method", "static", "--share", "momentum"],
            "the method static has no setting share; leave it",
        ),
        (["train", "digits-mlp", "--method", "rigl", "--window", "all"], "or choose sparse-momentum"),
        (["train", "digits-mlp", "--method", "gmp", "--set", "distribution=erk"], "update_every), or choose"),
        (["train", "digits-mlp", "--method", "dense", "--update-every", "5"], "it has no settings of its own"),
        (["train", "digits-mlp", "--set", "rewind_epochs=1"], "or choose lottery"),
        (["train", "digits-mlp", "--epochs", "2", "--set", "epochs=3"], "the setting epochs is given twice"),
        (["train", "digits-mlp", "--share", "odd"], "use one of momentum, none"),
        (["train", "digits-mlp", "--flops-budget", "2"], "must be in (0, 1]"),
        (["train", "digits-mlp", "--max-density", "nan"], "must be in (0, 1]"),
        (["train", "digits-mlp", "--window", "0"], "or 'all', or None"),
        (["train", "digits-mlp", "--window-batch", "0"], "at least 1"),
        (["train", "digits-mlp", "--max-seconds", "nan"], "at least 0"),
        (["train", "digits-mlp", "--method", "gmp", "--density", "1"], "between 0 and 1"),
        (["train", "digits-mlp", "--method", "mest", "--set", "prune_rate=1"], "at least 0 and below 1"),
        (["train", "digits-mlp", "--set", "prune_schedule=odd"], "use one of cosine"),
        (["train", "digits-mlp", "--set", "growth=odd"], "use one of momentum, global-momentum, gradient"),
        (["train", "digits-mlp", "--set", "distribution=odd"], "use one of uniform"),
        (["train", "digits-mlp", "--set", "distribution=global"], "needs a density and scores"),
        (["train", "digits-mlp", "--set", "dense=fc4"], "matches none of fc1.weight"),
        (["train", "digits-mlp", "--set", "dense=fc1,fc2,fc3"], "nothing to make sparse"),
        (["train", "digits-mlp", "--set", "momentum=0"], "set nesterov=false, too"),
        (["train", "digits-mlp", "--set", "lr=inf"], "above 0 and finite"),
        (["train", "digits-mlp", "--set", "lr_drop_factor=nan"], "at most 1"),
        (["train", "digits-mlp", "--set", "lr_drops=-1"], "at least 0 each"),
        (["train", "digits-mlp", "--set", "accelerator=odd"], "auto or cpu"),
        (["train", "digits-mlp", "--out", "/dev/null/run"], "/dev/null is a file"),
        (["demo", "--out", "/dev/null"], "/dev/null is a file"),
        (["summary", "nowhere"], "name a folder from regrow train"),
        (["export", "nowhere", "--to", "dense", "--out", "x"], "name a folder from regrow train"),
        (["features", "nowhere"], "name a folder from regrow train"),
        (["features", "nowhere", "--split", "odd"], "train, validation, test"),
        (
            ["compare", "digits-mlp", "--methods", "static,rigl", "--set", "share=none"],
            "the methods static, rigl have no setting share",
        ),
        (
            ["compare", "digits-mlp", "--methods", "static", "--vary", "share=none,momentum"],
            "the method static has no setting share",
        ),
        (["compare", "digits-mlp", "--set", "dense=fc4"], "matches none of fc1.weight"),
        (["compare", "digits-mlp", "--vary", "prune_rate=0.5,2"], "at least 0 and below 1"),
        (["compare", "digits-mlp", "--epochs", "0"], "at least 1"),
        (["compare", "digits"], "did you mean digits-mlp"),
        (["compare"], "regrow compare --help"),
        (["compare", "digits-mlp", "--methods", "static,magic"], "the methods are sparse-momentum, dense, static"),
        (["compare", "digits-mlp", "--methods", "static,static"], "name each once"),
        (["compare", "digits-mlp", "--densities", "0.1,5"], "--densities 0.1,0.05"),
        (["compare", "digits-mlp", "--densities", "0.10000001,0.10000002"], "leave one out"),
        (["compare", "digits-mlp", "--seeds", "many"], "--seeds 0,3,7"),
        (["compare", "digits-mlp", "--seeds", "0"], "--seeds 5"),
        (["compare", "digits-mlp", "--seeds", "1,1"], "name each once"),
        (["compare", "digits-mlp", "--vary", "momentum"], "--vary momentum=0.5,0.9"),
        (["compare", "digits-mlp", "--vary", "depth=2,3"], "the settings are epochs"),
        (["compare", "digits-mlp", "--vary", "momentum=0.5,two"], "must be a number"),
        (["compare", "digits-mlp", "--vary", "lr=0.1,0.2", "--set", "lr=0.3"], "name each once"),
        (["compare", "digits-mlp", "--vary", "lr=0.1", "--vary", "lr=0.3"], "name each once"),
        (["compare", "digits-mlp", "--vary", "lr=0.1,0.10"], "leave one out"),
        (["compare", "digits-mlp", "--storage", "tape"], "the storages are auto, masked, compressed"),
        (["compare", "digits-mlp", "--jobs", "0"], "regrow compare --help"),
        (["compare", "digits-mlp", "--executor", "slurm"], "the executors are processes, ray"),
        (["bench"], "regrow bench --help"),
        (["bench", "layers", "--cases", "linear:64"], "linear:IN->OUT then bBATCH"),
        (["bench", "layers", "--cases", "conv3x3:4->4@8s0"], "sSTRIDE"),
        (["bench", "layers", "--densities", "0.1,5"], "--densities 0.1,0.05"),
        (["bench", "layers", "--kinds", "fast"], "nchw, channels_last"),
        (["bench", "layers", "--clock", "sun"], "wall, cpu"),
        (["bench", "layers", "--batch", "0"], "regrow bench layers --help"),
        (["bench", "layers", "--json", "."], "regrow bench layers --help"),
        (["bench", "step", "--density", "5"], "such as --density 0.1,0.05"),
        (["bench", "step", "--batch", "many"], "such as --batch 16,128"),
        (["bench", "inference", "--batches", "1,0"], "such as --batches 16,128"),
        (["bench", "step", "--density", "0.1", "--topology", "topology.npz"], "leave one out"),
        (["bench", "run", "--density", "0.1", "--topology", "topology.npz"], "leave one out"),
        (["bench", "run", "--density", "0.1", "--share", "odd"], "use one of momentum, none"),
        (["bench", "run", "--density", "0.1", "--flops-budget", "-1"], "must be in (0, 1]"),
    ],
)
def test_usage_errors(args: list[str], remedy: str):
    assert remedy in assert_one_line(run(*args), 2)


@pytest.mark.parametrize(
    ("args", "remedy"),
    [
        (["train", "digits-mlp", "--set", "lr=1e20"], "--set lr="),
        (
            ["train", "digits-mlp", "--epochs", "1", "--out", "/proc/run"],
            "No such file or directory: /proc/run; fix that",
        ),
    ],
)
def test_failures(args: list[str], remedy: str):
    assert remedy in assert_one_line(run(*args), 1)


@pytest.mark.parametrize(("package", "args"), [("typer", ["list"]), ("rich", ["doctor"])])
def test_a_package_that_is_not_installed_is_one_line(package: str, args: list[str]):
    program = f"import sys; sys.modules[{package!r}] = None; sys.argv[1:] = {args!r}\n"
    program += "from regrow.lab.__main__ import main; main()"
    asked = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert asked.returncode == 1
    assert asked.stderr.splitlines()[-1].endswith("is not installed; pip install 'regrow[recipes]'"), asked.stderr
    assert "Traceback" not in asked.stderr


def test_a_run_does_not_load_what_it_does_not_use(tmp_path: Path):
    args = ["train", "digits-mlp", "--epochs", "1", "--out", str(tmp_path / "run")]
    program = f"import sys; sys.argv[1:] = {args!r}\nfrom regrow.lab.__main__ import main\n"
    program += "try: main()\nfinally: print('transformers' in sys.modules)"
    asked = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert asked.stdout.splitlines()[-1] == "False", asked.stderr
    assert (tmp_path / "run" / "summary.json").exists()


def test_missing_data_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("torchvision").datasets
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    result = run("train", "lenet300-mnist", "--data-dir", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert "REGROW_DATA" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_debug_shows_the_traceback():
    result = run("train", "digits-mlp", "--epochs", "1", "--set", "lr=1e20", "--debug")
    assert isinstance(result.exception, RunError)


def test_summary_shows_layers_of_folder_and_checkpoint():
    assert run(*SHORT, "--out", "run").exit_code == 0
    for path in ("run", "run/checkpoint.pt"):
        result = run("summary", path)
        assert result.exit_code == 0, result.output
        assert "fc1.weight" in result.stdout
        assert "5,020 / 50,200" in result.stdout
    assert run("train", "digits-mlp", "--method", "dense", "--epochs", "1", "--out", "dense").exit_code == 0
    assert "fc1.weight" in run("summary", "dense").stdout


SAVED = {"save": regrow.save, "safetensors": regrow.export.save_safetensors}


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("save", SAVED.values(), ids=SAVED)
def test_summary_shows_layers_of_files_of_models(storage: str, save: Callable[..., None]):
    layers = torch.nn.Linear(12, 10), torch.nn.BatchNorm1d(10), torch.nn.Linear(10, 2)
    save("model.file", regrow.sparsify(torch.nn.Sequential(*layers), 0.1, dense=["2"], storage=storage))
    result = run("summary", "model.file")
    assert result.exit_code == 0, result.output
    assert f"0.weight 10x12 12 / 120 10.00% {storage} (as saved)" in " ".join(result.stdout.split())
    assert f"{10 + 41 + 22} further values" in result.stdout


def test_summary_of_a_file_counts_inactive_weights_that_are_not_0():
    layer = regrow.sparsify(torch.nn.Linear(12, 10), 0.1, storage="masked")
    torch.nn.init.ones_(layer.weight)
    with pytest.warns(UserWarning, match="108 of 108 inactive weights are not 0"):
        regrow.save("model.file", layer)
    stdout = " ".join(run("summary", "model.file").stdout.split())
    assert "weight 10x12 12 / 120 100.00% masked (as saved)" in stdout
    assert "inactive weights that are not 0, and compute: weight (108)" in stdout


def test_summary_of_a_dense_file_and_of_foreign_ones():
    layer = torch.nn.Linear(3, 2)
    regrow.save("dense.pt", layer)
    assert "weight  (2, 3)" in run("summary", "dense.pt").stdout
    torch.save(layer.state_dict(), "state.pt")
    assert "is not a checkpoint of regrow train" in assert_one_line(run("summary", "state.pt"), 1)
    safetensors.torch.save_file(layer.state_dict(), "other.safetensors")
    assert "was not written by regrow" in assert_one_line(run("summary", "other.safetensors"), 1)
    assert "not a checkpoint of regrow train" in assert_one_line(
        run("export", "other.safetensors", "--to", "dense", "--out", "x"), 1
    )


def test_demo_compares_dense_and_sparse(monkeypatch: pytest.MonkeyPatch):
    from dataclasses import replace

    from regrow.lab.cli import demo
    from regrow.lab.recipes import catalog

    quick = replace(catalog.get_recipe("digits-mlp"), name="wide-table", epochs=2)
    monkeypatch.setitem(catalog.RECIPES, "wide-table", lambda: quick)
    monkeypatch.setattr(demo, "TUNED_DENSE", ("lr=0.05",))
    monkeypatch.setattr(demo, "SHORT", ())
    result = run("demo", "--density", "0.1")
    assert result.exit_code == 0, result.output
    for text in (
        "5,020 of 50,200",
        "50,200 of 50,200",
        "test error",
        "runs/demo/dense-1-s0-",
        "regrow summary",
        "runs/demo/report.html",
    ):
        assert text in result.stdout
    assert "is finished already" in run("demo", "--density", "0.1").stdout
