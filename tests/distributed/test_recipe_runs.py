"""`regrow train` on two ranks, which torchrun has started or Fabric starts."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("lightning_fabric", reason="the recipes need: pip install 'regrow[recipes]'")
pytest.importorskip("sklearn", reason="the recipes need: pip install 'regrow[recipes]'")

SCENARIOS = "recipe_runs"
NAMES = [
    "a_run_is_that_of_one_process_and_goes_on_after_a_stop",
    "rank_0_alone_writes",
    "the_rest_of_a_batch_is_shared_out",
]


def test_all_scenarios_are_asked_for(ranks):
    assert list(ranks) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks(ranks, name):
    assert ranks[name] is None, "\n".join(ranks[name])


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
LAUNCHERS = {"fabric": [sys.executable], "torchrun": TORCHRUN}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_command_is_started_either_way(launcher, tmp_path):
    command = [*LAUNCHERS[launcher], "-m", "regrow.lab", "train", "digits-mlp", "--density", "0.1", "--epochs", "1"]
    command += ["--devices", "2", "--strategy", "ddp", "--threads", "1", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test error") == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["processes"], summary["active_weights"]) == (2, 5020)
    again = subprocess.run(
        command, capture_output=True, text=True, timeout=500, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert again.returncode != 0
    assert again.stderr.count("exists already") == 1
