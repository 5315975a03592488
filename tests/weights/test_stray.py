"""Inactive weights that are not 0: who notices them, who refuses them, and how they go."""

import io

import pytest
import torch
from torch import nn

import regrow
from helpers import mlp

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def merged():
    """A masked network into which dense changes were merged, through `.data`, as adapters do it."""
    model = regrow.sparsify(mlp(8, 12, 4), 0.25, seed=0, storage="masked")
    model[0].weight.data += 0.01
    return model


def test_check_says_how_many_and_where(merged):
    [text] = regrow.check(merged)
    assert text.startswith("0.weight: 72 of 72 inactive weights are not 0.")
    assert "enforce()" in text
    assert "keep_inactive=True" in text


def test_summary_counts_what_computes_and_warns(merged):
    with pytest.warns(UserWarning, match="72 of 72 inactive weights are not 0"):
        summary = regrow.summary(merged)
    assert (summary.active, summary.stray) == (36, 72)
    assert summary.density == (36 + 72) / 144
    assert "inactive weights that are not 0, and compute: 0.weight (72)" in str(summary)


@pytest.mark.parametrize(
    "act",
    [
        regrow.densify,
        lambda model: regrow.export.save_safetensors("unwritten", model),
        lambda model: regrow.export.save_dense("unwritten", model),
        lambda model: regrow.export.save_torch_sparse("unwritten", model),
        lambda model: regrow.compact(model, X),
        lambda model: regrow.export.save_onnx("unwritten", model, X),
    ],
    ids=["densify", "safetensors", "dense", "torch_sparse", "compact", "onnx"],
)
def test_nothing_is_exported_that_computes_something_else(merged, act, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = merged[0].weight.detach().clone()
    with pytest.raises(ValueError, match=r"would compute something else than the model: 0\.weight: 72 of 72"):
        act(merged)
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(merged[0].weight, before)


def test_both_remedies_work(merged):
    torch.testing.assert_close(regrow.densify(merged, keep_inactive=True)(X), merged(X))
    for weight in regrow.sparse_weights(merged).values():
        weight.enforce()
    assert regrow.check(merged) == []
    torch.testing.assert_close(regrow.densify(merged)(X), merged(X))


def test_files_keep_all_and_say_so(merged, tmp_path):
    with pytest.warns(UserWarning, match="72 of 72 inactive weights are not 0"):
        regrow.save(tmp_path / "model.pt", merged)
    again = regrow.load(tmp_path / "model.pt", mlp(8, 12, 4, seed=9))
    torch.testing.assert_close(again(X), merged(X))
    assert regrow.check(again) == regrow.check(merged)


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_a_dense_checkpoint_gives_active_weights_alone(storage):
    """And says that the others are left out."""
    plain = mlp(8, 12, 4, seed=9)
    model = regrow.sparsify(mlp(8, 12, 4), 0.25, seed=0, storage=storage)
    positions = {name: weight.indices for name, weight in regrow.sparse_weights(model).items()}
    with pytest.warns(UserWarning, match=r"weight: the state is dense, and \d+ of its \d+ weights are inactive here"):
        model.load_state_dict(plain.state_dict(), strict=False)
    assert regrow.check(model) == []
    for name, weight in regrow.sparse_weights(model).items():
        assert torch.equal(weight.indices, positions[name])
        assert torch.equal(weight.values, plain.state_dict()[name].take(positions[name]))
    torch.testing.assert_close(model[0].bias, plain[0].bias)


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_a_dense_checkpoint_is_refused_where_all_entries_are_asked_for(storage):
    model = regrow.sparsify(mlp(8, 12, 4), 0.25, seed=0, storage=storage)
    with pytest.raises(RuntimeError, match=r"weight_mask|indices"):
        model.load_state_dict(mlp(8, 12, 4, seed=9).state_dict())
    assert regrow.check(model) == []


def test_compressed_weights_have_none():
    model = regrow.sparsify(mlp(8, 12, 4), 0.25, seed=0, storage="compressed")
    nn.init.ones_(model[0].weight)
    assert regrow.check(model) == []
    assert regrow.summary(model).stray == 0


def test_a_model_in_a_pickle_is_checked_as_well(merged):
    file = io.BytesIO()
    torch.save(merged, file)
    file.seek(0)
    assert regrow.check(torch.load(file, weights_only=False)) == regrow.check(merged)
