"""Runs scenarios on two ranks: one fresh process imports torch once, and forks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).resolve().parents[1]

POSSIBLE = torch.distributed.is_available() and torch.distributed.is_gloo_available() and hasattr(os, "fork")


@pytest.fixture(scope="module", autouse=True)
def _possible():
    if not POSSIBLE:
        pytest.skip("several processes need torch.distributed with gloo, and os.fork")


def outcomes(module, folder, timeout=500):
    """What became of each scenario of a module, by its name: None, or the errors of the ranks."""
    command = [sys.executable, "-m", "distributed.worker", f"distributed.{module}", str(folder)]
    where = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=where) as worker:
        try:
            said, _ = worker.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            worker.terminate()  # it ends its ranks
            said = worker.communicate()[0] + "\ntimed out"
    ranks = [json.loads(file.read_text()) for file in sorted(folder.glob("rank-*.json"))]
    assert len(ranks) == 2, said
    return {name: [rank[name] for rank in ranks if rank[name]] or None for name in ranks[0]}


@pytest.fixture(scope="module")
def ranks(request, tmp_path_factory, _possible):
    """Outcomes of the scenarios that the test module names in SCENARIOS, all in one launch."""
    return outcomes(request.module.SCENARIOS, tmp_path_factory.mktemp("ranks"))
