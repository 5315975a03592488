"""Checkpoints of other versions and other models. `regrow-0.1` holds what version 0.1 wrote, by

train(VARIANTS["compressed"], ...)  # stopped in its third epoch
regrow.save("model.pt", regrow.sparsify(torch.nn.Linear(12, 5), 0.25, seed=0))
"""

import shutil
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("lightning_fabric", reason="the recipes need: pip install 'regrow[recipes]'")

import regrow
from regrow.io.checked import save_checked
from regrow.lab import RunError, models, train
from regrow.lab.training.folder import CHECKPOINT, RunFolder
from survival import version_0_1
from survival.runs import EPOCHS, STEPS, VARIANTS, write_examples

OLD = Path(__file__).parent / "regrow-0.1"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of version 0.1, which has done two epochs."""
    write_examples(tmp_path)
    shutil.copytree(OLD, tmp_path / "run", ignore=shutil.ignore_patterns("model.pt"))
    return tmp_path / "run"


def test_a_run_of_the_version_before_goes_on(run: Path):
    first_lines = (OLD / "metrics.jsonl").read_text().splitlines()
    summary = train(VARIANTS["compressed"], out=run, data_dir=run.parent, resume=True)
    assert summary["steps"] == EPOCHS * STEPS
    assert [row["epoch"] for row in RunFolder(run).rows("metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert (run / "metrics.jsonl").read_text().splitlines()[:2] == first_lines


def test_a_model_of_the_version_before_loads():
    model = regrow.load(OLD / "model.pt", nn.Linear(12, 5))
    assert regrow.sparse_weights(model)["weight"].active == 15


def mlp(first: nn.Module, *sizes: int) -> nn.Module:
    layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(first, *layers[:-1])


class Coarse(nn.Module):
    """Every other pixel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, ::2, ::2].flatten(1)


OTHERS = {
    "another width": (mlp(nn.Flatten(), 192, 20, 16, 10), r"1\.bias \(\(24,\) there, \(20,\) here\)"),
    "one layer more": (mlp(nn.Flatten(), 192, 24, 16, 10, 10), r"sparse here: .*'7\.weight'"),
    # compressed weights are as long as their active set, whatever they are of; the checkpoint says
    "another input": (mlp(Coarse(), 48, 24, 16, 10), r"1\.weight \(\(24, 192\) there, \(24, 48\) here\)"),
}


@pytest.mark.parametrize(("model", "differing"), OTHERS.values(), ids=OTHERS)
def test_another_model_is_refused_by_the_names_that_differ(
    run: Path, monkeypatch: pytest.MonkeyPatch, model: nn.Module, differing: str
):
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", lambda *_: None)  # so that there is something to go on with
        train(VARIANTS["compressed"], out=run, data_dir=run.parent, resume=True)
    monkeypatch.setitem(models.MODELS, "survival-mlp", lambda num_classes: deepcopy(model))
    before = {file: file.read_bytes() for file in run.iterdir()}
    with pytest.raises(RunError, match=differing) as error:
        train(VARIANTS["compressed"], out=run, data_dir=run.parent, resume=True)
    assert "\n" not in str(error.value)
    assert {file: file.read_bytes() for file in run.iterdir()} == before


def test_a_checkpoint_of_a_later_version_is_not_guessed_at(run: Path):
    save_checked({"format": 3, "regrow": "7.0"}, run / CHECKPOINT)
    with pytest.raises(RunError, match=r"checkpoint\.pt comes from regrow 7\.0, which is newer than this one"):
        train(VARIANTS["compressed"], out=run, data_dir=run.parent, resume=True)


@pytest.mark.parametrize(("method", "storage"), version_0_1.cases())
def test_states_of_the_version_before_go_on_as_they_did_there(method: str, storage: str):
    file = torch.load(version_0_1.HERE / f"{method}-{storage}-0.1.pt", weights_only=False)
    parts = version_0_1.start(method, storage)
    for part, state in zip(parts, file["states"], strict=True):
        part.load_state_dict(state)
    version_0_1.train(parts, range(5, 8))
    assert_close(version_0_1.picture(parts[0]), file["later"])


@pytest.mark.parametrize("name", ["saved-0.1.pt", "saved-0.1.safetensors"])
@pytest.mark.parametrize("storage", [None, "masked"])
def test_sparse_files_of_the_version_before_load(name: str, storage: str | None):
    model = regrow.load(version_0_1.HERE / name, version_0_1.network().float(), storage=storage)
    assert_close(version_0_1.picture(model), torch.load(version_0_1.HERE / "saved-picture-0.1.pt"))
    assert {w.storage for w in regrow.sparse_weights(model).values()} == {storage or "compressed"}


def assert_close(ours: version_0_1.Picture, theirs: version_0_1.Picture) -> None:
    assert ours.keys() == theirs.keys()
    for name, (indices, values) in ours.items():
        assert torch.equal(indices, theirs[name][0])
        torch.testing.assert_close(values, theirs[name][1], rtol=1e-9, atol=1e-11)
