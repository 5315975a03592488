"""Files are written whole or not at all, and hold a model with its topology."""

import os
import stat

import pytest
import torch
from torch import nn

import regrow
from helpers import assert_inactive_are_zero, assert_same, indices, mlp, picture, sparse_mlp, train
from regrow.io.atomic import write_atomically

SIZES = (8, 12, 4)


def plain(seed=5):
    return mlp(*SIZES, seed=seed)


@pytest.mark.parametrize("into", [plain, lambda: sparse_mlp(seed=7)], ids=["plain", "sparse"])
def test_a_sparse_model_comes_back_and_trains_on(tmp_path, into):
    model = sparse_mlp()
    path = tmp_path / "model.pt"
    regrow.save(path, model)
    loaded = regrow.load(str(path), into())
    assert indices(loaded) == indices(model)
    assert_same(loaded.state_dict(), model.state_dict())
    for net in (model, loaded):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        regrow.SparseMomentum(net, optimizer, total_steps=9, update_every=2)
        train(net, optimizer, range(5))
        assert_inactive_are_zero(net, optimizer)
    assert_same(loaded.state_dict(), model.state_dict())


def test_layers_that_are_dense_there_stay_dense(tmp_path):
    model = regrow.sparsify(plain(), 0.2, dense=["2"], seed=0)
    regrow.save(tmp_path / "m", model)
    assert indices(regrow.load(tmp_path / "m", plain())) == indices(model)


class Tied(nn.Module):
    """One block in two places, and a layer that is the root's own in two."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.decoder = self.encoder
        self.first = self.last = nn.Linear(8, 8)

    def forward(self, x):
        return self.last(self.decoder(self.first(self.encoder(x))))


@pytest.mark.parametrize("save", [regrow.save, regrow.export.save_safetensors])
@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("into", ["dense", "masked", "compressed"])
def test_modules_in_several_places(tmp_path, save, storage, into):
    model = regrow.sparsify(Tied(), 0.3, storage=storage, seed=0)
    save(tmp_path / "m", model)
    target = Tied(seed=1) if into == "dense" else regrow.sparsify(Tied(seed=1), 0.5, storage=into, seed=1)
    loaded = regrow.load(tmp_path / "m", target)
    assert loaded.decoder is loaded.encoder
    assert indices(loaded) == indices(model)
    assert list(indices(loaded)) == ["encoder.0.weight", "first.weight"]
    x = torch.randn(5, 8)
    torch.testing.assert_close(loaded(x), model(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="another model"):
        regrow.load(tmp_path / "m", plain())


def test_a_dense_model(tmp_path):
    model = plain(seed=1)
    regrow.save(tmp_path / "m", model)
    loaded = regrow.load(tmp_path / "m", plain(seed=2))
    assert not regrow.sparse_weights(loaded)
    assert_same(loaded.state_dict(), model.state_dict())


WRAPS = {
    "none": lambda model: model,
    "DataParallel": nn.DataParallel,
    "compile": lambda model: torch.compile(model, backend="eager"),
}


@pytest.mark.parametrize("loaded_by", WRAPS)
@pytest.mark.parametrize("saved_by", WRAPS)
def test_wrappers_do_not_matter(tmp_path, saved_by, loaded_by):
    model = sparse_mlp()
    regrow.save(tmp_path / "m", WRAPS[saved_by](model))
    target = plain()
    regrow.load(tmp_path / "m", WRAPS[loaded_by](target))
    assert indices(target) == indices(model)
    assert_same(target.state_dict(), model.state_dict())


def other_model():
    return mlp(8, 13, 4)


@pytest.mark.parametrize(
    ("saved", "target", "message"),
    [
        (sparse_mlp, other_model, r"0\.weight.*\(12, 8\) there, \(13, 8\) here"),
        (sparse_mlp, lambda: mlp(8, 12), r"2\.weight"),
        (lambda: mlp(8, 12), plain, r"2\.weight"),
        (plain, sparse_mlp, r"sparse there: \[\], sparse here: \['0.weight', '2.weight'\]"),
        (sparse_mlp, lambda: regrow.sparsify(plain(), 0.3, dense=["2"]), r"sparse here: \['0.weight'\]"),
    ],
)
def test_another_model_is_refused_with_names_and_left_as_it_is(tmp_path, saved, target, message):
    path = tmp_path / "m"
    regrow.save(path, saved())
    model = target()
    before = picture(model)
    with pytest.raises(ValueError, match=message) as error:
        regrow.load(path, model)
    assert str(path) in str(error.value)
    assert_same(before, picture(model))


@pytest.mark.parametrize("content", [{"a": torch.ones(1)}, [1, 2], None])
def test_another_file_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "m")
    with pytest.raises(ValueError, match=r"m was not written by regrow\.save"):
        regrow.load(tmp_path / "m", plain())


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken"])
def test_a_file_that_is_no_torch_file_is_refused(tmp_path, content):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(ValueError, match=r"m is damaged or cut short"):
        regrow.load(tmp_path / "m", plain())


def test_extra_state_that_is_no_tensor(tmp_path):
    class Net(nn.Linear):
        def get_extra_state(self):
            return {"version": 3}

        def set_extra_state(self, state):
            self.version = state["version"]

    regrow.save(tmp_path / "m", regrow.sparsify(Net(4, 4), 0.5))
    assert regrow.load(tmp_path / "m", Net(4, 4)).version == 3


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, failure):
    path = tmp_path / "model.pt"
    model = sparse_mlp()
    regrow.save(path, model)
    old = path.read_bytes()

    def fail(content, file):
        file.write(b"half of it")
        raise failure

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(type(failure)):
        regrow.save(path, sparse_mlp(seed=3))
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["model.pt"]


def test_written_whole_with_ordinary_permissions_in_a_new_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "note.txt"
    with write_atomically(path) as temporary:
        temporary.write_text("hello")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "hello"
    assert os.listdir(path.parent) == ["note.txt"]
    (tmp_path / "plain.txt").write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain.txt").stat().st_mode)


def test_the_file_needs_no_unsafe_unpickling(tmp_path):
    regrow.save(tmp_path / "m", sparse_mlp())
    content = torch.load(tmp_path / "m", weights_only=True)
    assert content["state_dict"]["0.weight_mask"].dtype == torch.bool


def test_a_frozen_layer_that_was_sparse_is_refused_by_name(tmp_path):
    regrow.save(tmp_path / "m", sparse_mlp())
    target = plain()
    target[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"0\.weight.*freeze them after loading"):
        regrow.load(tmp_path / "m", target)
    assert not regrow.sparse_weights(target)
