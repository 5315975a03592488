"""Text: windows of characters, the network that continues them, and its recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import regrow
from regrow.lab import RunError, Settings, UsageError, train
from regrow.lab.data.text import TextSplit, shakespeare
from regrow.lab.models import build
from regrow.lab.recipes.catalog import get_recipe
from regrow.lab.recipes.recipe import learning_rate

LETTERS = "abcdefgh"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A text that repeats itself, so that a network soon learns it."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "tinyshakespeare.txt").write_text(LETTERS * 1000)
    return tmp_path


def test_labels_are_what_follows():
    split = TextSplit.whole(torch.arange(41), block=8)
    assert len(split) == 5
    x, y = split.batch(torch.tensor([0, 4]))
    assert torch.equal(x, torch.stack([torch.arange(8), torch.arange(32, 40)]))
    assert torch.equal(y, x + 1)
    moved, _ = split.batch(torch.tensor([0, 4]), torch.tensor([[3], [3]]))
    assert torch.equal(moved[:, 0], torch.tensor([3, 32])), "the last window ends with the text"


def test_windows_of_an_epoch_are_moved_at_random_by_the_seed():
    split = TextSplit.whole(torch.arange(4001), block=8)
    moves = split.epoch_moves(0, 0)
    assert moves is not None
    assert moves.shape == (500, 1)
    assert set(moves.flatten().tolist()) == set(range(8))
    assert torch.equal(moves, split.epoch_moves(0, 0))
    assert not torch.equal(moves, split.epoch_moves(0, 1))
    seen = torch.cat([index for index, _ in split.epoch_batches(0, 0, 32)])
    assert torch.equal(seen.sort().values, torch.arange(500))


def test_the_text_is_cut_into_three(root: Path):
    data = shakespeare(root, 0, 0.1)
    assert [len(part.y) for part in data] == [6840, 760, 400]
    assert int(torch.cat([part.y for part in data]).max()) == len(LETTERS) - 1
    assert len(data.train.first(10)) == 10
    with pytest.raises(UsageError, match="images=54 must be at most 53"):
        data.train.first(54)


def test_a_text_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(RunError, match=r"tinyshakespeare\.txt .*--data-dir"):
        shakespeare(tmp_path, 0, 0.1)


def test_the_network_looks_back_only():
    torch.manual_seed(0)
    model = build("gpt-char", 65, features=32, layers=2, heads=4).eval()
    tokens = torch.randint(65, (2, 20))
    changed = tokens.clone()
    changed[:, 12:] = 0
    before, after = model(tokens), model(changed)
    assert before.shape == (2, 20, 65)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.equal(before[:, 12:], after[:, 12:])
    with pytest.raises(ValueError, match="features=30 must be a multiple of heads=4"):
        build("gpt-char", 65, features=30, heads=4)


def test_the_recipe_makes_its_projections_sparse():
    recipe = get_recipe("gpt-shakespeare")
    model = regrow.sparsify(build(recipe.model, recipe.classes), 0.1, dense=list(recipe.dense), storage="compressed")
    names = ("attention.qkv", "attention.out", "up", "down")
    assert list(regrow.sparse_weights(model)) == [f"blocks.{n}.{name}.weight" for n in range(4) for name in names]


def test_the_learning_rate_falls_as_a_cosine():
    recipe = replace(get_recipe("gpt-shakespeare"), lr=1.0, epochs=10, warmup_epochs=1.0)
    rates = [learning_rate(recipe, step, 100) for step in (0, 4, 9, 50, 99)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[1] == pytest.approx(0.5, abs=0.01)
    assert rates[3] == pytest.approx(0.5)
    assert 0 < rates[4] < 0.001


@pytest.mark.parametrize("method", ["sparse-momentum", "dense", "snip"])
def test_a_short_run_learns(method: str, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from regrow.lab import models

    small = {"gpt-char": lambda num_classes: models.GPT(num_classes, layers=1, heads=2, features=32)}
    monkeypatch.setattr(models, "MODELS", models.MODELS | small)
    recipe = replace(get_recipe("gpt-shakespeare"), classes=8, epochs=3, lr=0.01, batch_size=4)
    settings = Settings(recipe, method, 1.0 if method == "dense" else 0.3, "auto", 0)
    summary = train(settings, out=tmp_path / "run", data_dir=root, threads=1)
    assert summary["validation_loss"] < 1.0 < torch.tensor(8.0).log()
    assert summary["validation_error"] < 40
    assert summary["test_loss"] == pytest.approx(summary["validation_loss"], abs=0.2)
