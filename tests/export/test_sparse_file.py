"""The sparse file: to the bit, small, refused when damaged, and training goes on from it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import regrow
from helpers import EXAMPLES, assert_same, indices, mlp, picture, sparse_mlp, train
from regrow.export import load_optimizer, save_safetensors
from regrow.export._positions import decode, encode

SIZES = (8, 12, 4)


def compressed_mlp(seed=0):
    return regrow.sparsify(mlp(*SIZES, seed=seed), 0.3, storage="compressed", seed=seed)


# -- positions


@EXAMPLES
@given(st.sets(st.integers(0, 2**40)))
def test_positions_come_back(positions):
    positions = torch.tensor(sorted(positions), dtype=torch.int64)
    assert torch.equal(decode(encode(positions), len(positions)), positions)


def test_positions_are_leb128():
    """129 - 0 - 1 = 128 = 0x80 0x01, the example of the DWARF standard, section 7.6."""
    assert encode(torch.tensor([2, 130, 259])).tolist() == [2, 127, 0x80, 1]


@pytest.mark.parametrize("stream", [[3, 0x80], [3], [3, 0, 0], [0x80] * 9 + [1, 1]])
def test_streams_that_are_no_two_positions(stream):
    with pytest.raises(ValueError, match="position"):
        decode(torch.tensor(stream, dtype=torch.uint8), 2)


# -- models


class Mixed(nn.Module):
    """A compressed layer, masked ones of other names, buffers, and one that is dense."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(2, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.rnn = nn.LSTM(6, 5)
        self.fc = nn.Linear(5, 3)
        self.norm.running_mean.normal_()


@pytest.mark.parametrize("into", ["dense", "sparse"])
def test_a_model_comes_back_to_the_bit(tmp_path, into):
    model = regrow.sparsify(Mixed(1), 0.2, dense=["fc"], seed=1)
    assert {weight.storage for weight in regrow.sparse_weights(model).values()} == {"masked", "compressed"}
    save_safetensors(tmp_path / "m.safetensors", model)
    target = Mixed(2)
    target = regrow.sparsify(target, 0.3, dense=["fc"], seed=2) if into == "sparse" else target
    loaded = regrow.load(tmp_path / "m.safetensors", target)
    assert indices(loaded) == indices(model)
    assert_same(dict(loaded.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize("make", [sparse_mlp, lambda: mlp(*SIZES), lambda: compressed_mlp()])
def test_the_same_as_from_a_file_of_save(tmp_path, make):
    model = make()
    regrow.save(tmp_path / "m.pt", model)
    save_safetensors(tmp_path / "m.safetensors", model)
    one, other = (regrow.load(tmp_path / name, mlp(*SIZES, seed=9)) for name in ("m.pt", "m.safetensors"))
    assert_same(dict(one.state_dict()), dict(other.state_dict()))


def test_storage_can_be_chosen(tmp_path):
    save_safetensors(tmp_path / "m", compressed_mlp())
    loaded = regrow.load(tmp_path / "m", mlp(*SIZES), storage="masked")
    assert {weight.storage for weight in regrow.sparse_weights(loaded).values()} == {"masked"}
    assert indices(loaded) == indices(compressed_mlp())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(200, 16), nn.Linear(16, 200)
        self.head.weight = self.embedding.weight


def test_a_tied_weight_is_there_once(tmp_path):
    model = regrow.sparsify(Tied(), 0.1, seed=0)
    save_safetensors(tmp_path / "m", model)
    assert (tmp_path / "m").stat().st_size < 6000  # 320 active weights, 200 biases; the weight itself has 12,800 bytes
    loaded = regrow.load(tmp_path / "m", Tied())
    assert loaded.head.weight is loaded.embedding.weight
    assert_same(dict(loaded.state_dict()), dict(model.state_dict()))


def test_positions_beyond_int32(tmp_path):
    def wide():
        return nn.Linear(70_000, 70_000, bias=False, device="meta")

    model = regrow.sparsify(wide(), 1e-7, seed=0)
    save_safetensors(tmp_path / "m", model)
    loaded = regrow.load(tmp_path / "m", wide())
    assert loaded.indices.dtype == torch.int64
    assert int(loaded.indices.max()) > 2**31
    assert_same(dict(loaded.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize("density", [0.2, 0.05, 0.01, 0.002])
def test_an_active_weight_takes_less_than_seven_bytes(tmp_path, density):
    layer = regrow.sparsify(nn.Linear(1000, 500, bias=False), density, seed=0)
    save_safetensors(tmp_path / "m", layer)
    assert (tmp_path / "m").stat().st_size < 1000 + 7 * round(density * 500_000)


def test_nothing_of_ours_is_needed_to_read_it(tmp_path):
    """As docs/export.md says: a header of JSON, and tensors behind it."""
    model = sparse_mlp()
    save_safetensors(tmp_path / "m", model)
    content = (tmp_path / "m").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    about = json.loads(header["__metadata__"]["regrow"])
    for name, weight in about["sparse"].items():
        start, end = header[f"deltas/{name}"]["data_offsets"]
        position, found, number, place = -1, [], 0, 0
        for byte in content[8 + length + start : 8 + length + end]:
            number |= (byte & 127) << place
            place += 7
            if byte < 128:
                position += number + 1
                found.append(position)
                number = place = 0
        assert found == indices(model)[name]
        assert len(found) == weight["active"]
        start, end = header[f"values/{name}"]["data_offsets"]
        values = struct.unpack(f"<{len(found)}f", content[8 + length + start : 8 + length + end])
        assert list(values) == regrow.sparse_weights(model)[name].values.tolist()


# -- training goes on

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "groups": lambda parameters: torch.optim.SGD(
        [
            {"params": [p for p in parameters if p.dim() > 1], "lr": 0.1},
            {"params": [p for p in parameters if p.dim() == 1], "lr": 0.01, "weight_decay": 0.1},
        ],
        momentum=0.9,
    ),
}


def ordered(optimizer):
    state = optimizer.state_dict()["state"]
    return {index: dict(sorted(state[index].items())) for index in sorted(state)}


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_goes_on_to_the_same_bits_with_the_optimizers_state(tmp_path, storage, make):
    model = regrow.sparsify(mlp(*SIZES), 0.3, storage=storage, seed=0)
    optimizer = make(list(model.parameters()))
    updater = regrow.SparseMomentum(model, optimizer, total_steps=9, update_every=2)
    train(model, optimizer, range(5))
    updater.remove()
    save_safetensors(tmp_path / "m", model, optimizer)
    again = regrow.load(tmp_path / "m", mlp(*SIZES, seed=3))
    resumed = make(list(again.parameters()))
    for group in resumed.param_groups:
        group["lr"] = 99.0  # it comes from the file
    load_optimizer(tmp_path / "m", again, resumed)
    for net, of_net in ((model, optimizer), (again, resumed)):
        regrow.Static(net, of_net)
        train(net, of_net, range(5, 8))
    assert_same(again.state_dict(), model.state_dict())
    assert_same(ordered(resumed), ordered(optimizer))


def test_the_optimizers_state_moves_into_the_other_storage(tmp_path):
    model = compressed_mlp()
    optimizer = OPTIMIZERS["adamw"](list(model.parameters()))
    train(model, optimizer, range(3))
    save_safetensors(tmp_path / "m", model, optimizer)
    again = regrow.load(tmp_path / "m", mlp(*SIZES), storage="masked")
    resumed = OPTIMIZERS["adamw"](list(again.parameters()))
    load_optimizer(tmp_path / "m", again, resumed)
    for (name, one), other in zip(
        regrow.sparse_weights(model).items(), regrow.sparse_weights(again).values(), strict=True
    ):
        for key in ("exp_avg", "exp_avg_sq"):
            kept, dense = optimizer.state[one.parameter][key], resumed.state[other.parameter][key]
            assert torch.equal(one.take(kept), other.take(dense)), (name, key)
            assert torch.count_nonzero(dense) == torch.count_nonzero(kept)


def test_an_updater_starts_anew_on_a_loaded_model(tmp_path):
    save_safetensors(tmp_path / "m", sparse_mlp())
    model = regrow.load(tmp_path / "m", mlp(*SIZES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = regrow.SparseMomentum(model, optimizer, total_steps=9, update_every=2)
    train(model, optimizer, range(5))
    assert regrow.summary(model).active == regrow.summary(sparse_mlp()).active
    assert updater.step == 5


def test_optimizers_that_do_not_fit_are_refused(tmp_path):
    model, path = sparse_mlp(), tmp_path / "m"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, range(2))
    save_safetensors(path, model)
    with pytest.raises(ValueError, match="has no optimizer"):
        load_optimizer(path, model, optimizer)
    save_safetensors(path, model, optimizer)
    before = picture(model, optimizer)
    with pytest.raises(ValueError, match=r"0\.weight.*the active weights of the model are not those"):
        load_optimizer(path, sparse_mlp(seed=4), optimizer)
    two_groups = OPTIMIZERS["groups"](list(model.parameters()))
    with pytest.raises(ValueError, match="parameter groups"):
        load_optimizer(path, model, two_groups)
    assert_same(before, picture(model, optimizer))
    with pytest.raises(ValueError, match="do not belong to the model"):
        save_safetensors(path, sparse_mlp(), optimizer)
    weight = regrow.sparse_weights(model)["0.weight"]
    optimizer.state[weight.parameter]["momentum_buffer"].fill_(1.0)
    with pytest.raises(ValueError, match=r"momentum_buffer is not 0 where weights are inactive"):
        save_safetensors(path, model, optimizer)


# -- bad files


def rewritten(path, change, **metadata):
    """The file with tensors or metadata changed by somebody who keeps to the format of safetensors."""
    with safe_open(path, "pt") as file:
        old = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={**old, **metadata})


def flip_a_bit(tensors):
    tensors["values/0.weight"].view(torch.uint8)[0] ^= 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: rewritten(path, flip_a_bit), "checksum"),
        (lambda path: rewritten(path, lambda tensors: tensors.pop("0.bias")), "checksum"),
        (lambda path: rewritten(path, lambda tensors: None, regrow='{"format": "other"}'), "its format is 'other'"),
        (lambda path: rewritten(path, lambda tensors: None, regrow="[1]"), "TypeError"),
        (lambda path: rewritten(path, lambda tensors: None, regrow="{"), "JSONDecodeError"),
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), "SafetensorError"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "SafetensorError"),
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "SafetensorError"),
        (lambda path: save_file({"a": torch.ones(2)}, path), "KeyError"),
    ],
)
def test_a_damaged_file_is_refused_and_nothing_changes(tmp_path, damage, message):
    path = tmp_path / "m.safetensors"
    save_safetensors(path, sparse_mlp())
    damage(path)
    model = sparse_mlp(seed=7)
    before = picture(model)
    with pytest.raises(ValueError, match=rf"m\.safetensors was not written by .* or is damaged \(.*{message}"):
        regrow.load(path, model)
    assert_same(before, picture(model))


@pytest.mark.parametrize(
    ("shape", "message"), [([12, 7], "outside its shape"), ([12, 8], None)], ids=["too small", "its own"]
)
def test_positions_are_checked_even_where_the_checksum_is_right(tmp_path, shape, message):
    """Whoever can write a checksum cannot have us read outside of a tensor."""
    from regrow.export import sparse_file

    about = {"format": "regrow sparse file 1", "sparse": {"row": {"shape": shape, "active": 1, "storage": "masked"}}}
    positions = encode(torch.tensor([12 * 8 - 1]))
    sparse_file._write(tmp_path / "m", about, {"values/row": torch.ones(1), "deltas/row": positions})
    if message:
        with pytest.raises(ValueError, match=message):
            sparse_file.read_sparse_file(tmp_path / "m")
    else:
        assert sparse_file.read_sparse_file(tmp_path / "m")["state_dict"]["row"].flatten()[-1] == 1


def test_what_has_no_place_in_the_file_is_refused(tmp_path):
    class Net(nn.Linear):
        def get_extra_state(self):
            return {"version": 3}

        def set_extra_state(self, state):
            pass

    with pytest.raises(ValueError, match=r"_extra_state.*use regrow\.save"):
        save_safetensors(tmp_path / "m", Net(4, 4))
    assert not list(tmp_path.iterdir())


def test_a_failure_in_the_middle_keeps_the_old_file(tmp_path, monkeypatch):
    import safetensors.torch

    save_safetensors(tmp_path / "m", sparse_mlp())
    old = (tmp_path / "m").read_bytes()

    def fail(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_safetensors(tmp_path / "m", sparse_mlp(seed=3))
    assert (tmp_path / "m").read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


def test_reading_does_not_unpickle(tmp_path):
    save_safetensors(tmp_path / "m", sparse_mlp())
    program = (
        "import pickle, sys, torch, regrow.serialization, safetensors.torch\n"
        "def refuse(*a, **k): raise SystemExit('unpickled')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = pickle._Unpickler = torch.load = refuse\n"
        "net = torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.Tanh(), torch.nn.Linear(12, 4))\n"
        "print(regrow.summary(regrow.load(sys.argv[1], net)).active)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "m")], capture_output=True, text=True)
    assert done.stdout.strip() == str(regrow.summary(sparse_mlp()).active), done.stderr
