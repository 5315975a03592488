"""The short form of the suite: each fault once, on one of two kinds of run; `make survival` does them all often."""

from itertools import cycle
from pathlib import Path

import pytest

pytest.importorskip("lightning_fabric", reason="the recipes need: pip install 'regrow[recipes]'")

from survival.disk import Unavailable
from survival.faults import FAULTS
from survival.trial import Bench, Trial


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize(("fault", "variant"), list(zip(FAULTS, cycle(["compressed", "lottery"]))))
def test_a_run_survives(bench: Bench, tmp_path: Path, fault: str, variant: str):
    trial = Trial(bench, variant, f"{fault}, 0", tmp_path / "run", most_kills=2)
    try:
        FAULTS[fault].happen(trial)
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert trial.events or trial.causes
    if fault.startswith("killed while starting"):
        assert trial.kills == 2, "one in training, and one while starting"
