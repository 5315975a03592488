"""A file that is not as it was written is named, whatever has become of it."""

import resource

import pytest
import torch

import regrow
from helpers import assert_same, picture, sparse_mlp
from regrow.io.atomic import write_atomically
from regrow.io.checked import DamagedFile, load_checked, save_checked


@pytest.fixture
def file(tmp_path):
    save_checked({"format": 2, "weight": torch.arange(50.0)}, tmp_path / "w.pt")
    return tmp_path / "w.pt"


def test_it_comes_back_and_torch_reads_it_too(file):
    for content in (load_checked(file, unchecked=1), torch.load(file, weights_only=True)):
        assert torch.equal(content["weight"], torch.arange(50.0))


def test_a_flipped_bit_is_seen_wherever_it_is(file):
    content = file.read_bytes()
    for at in [*range(0, 8 * len(content), 101), *range(8 * (len(content) - 80), 8 * len(content), 5)]:
        damaged = bytearray(content)
        damaged[at // 8] ^= 1 << at % 8
        file.write_bytes(damaged)
        with pytest.raises(DamagedFile, match=r"w\.pt is damaged"):
            load_checked(file, unchecked=1)


def test_torch_alone_would_take_a_flipped_bit(file):
    """The reason for all of this; where it fails, torch has got a checksum of its own."""
    content = file.read_bytes()
    at = content.index(torch.arange(50.0).numpy().tobytes()) + 3
    file.write_bytes(content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :])
    assert torch.load(file, weights_only=True)["weight"][0] == 2.0


def test_a_file_cut_short_is_seen_whatever_is_left(file):
    content = file.read_bytes()
    for length in [*range(0, len(content), 41), *range(len(content) - 80, len(content))]:
        file.write_bytes(content[:length])
        with pytest.raises(DamagedFile, match=r"w\.pt is damaged"):
            load_checked(file, unchecked=1)


def test_files_of_older_versions_have_no_checksum(file):
    torch.save({"format": 1}, file)
    assert load_checked(file, unchecked=1) == {"format": 1}
    torch.save({"format": 2}, file)
    with pytest.raises(DamagedFile, match="its checksum is missing"):
        load_checked(file, unchecked=1)


def test_a_damaged_model_is_refused_and_changes_nothing(tmp_path):
    path, model = tmp_path / "m.pt", sparse_mlp(seed=7)
    regrow.save(path, sparse_mlp())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    before = picture(model)
    with pytest.raises(ValueError, match=r"m\.pt is damaged: its SHA-256 is"):
        regrow.load(path, model)
    assert_same(before, picture(model))


def test_a_disk_that_does_not_take_it_is_named(tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(b"as it was")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*/m\.pt'"):
            regrow.save(path, sparse_mlp())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"as it was"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_can_be_kept(tmp_path):
    file, previous = tmp_path / "a", tmp_path / "b"
    for text in ("1", "2", "3"):
        with write_atomically(file, previous=previous) as temporary:
            temporary.write_text(text)
    assert (file.read_text(), previous.read_text()) == ("3", "2")
