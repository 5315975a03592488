"""Data sets of image files: the same batches however they are read, and files that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch

from lab.training.test_resume import SignalAt, assert_same_run

pytest.importorskip("torchvision")
from PIL import Image

from regrow.lab import Interrupted, Recipe, RunError, Settings, make_settings, models, train
from regrow.lab.data.datasets import IMAGENET_MEAN, IMAGENET_STD, image_folder
from regrow.lab.data.reading import Reading
from regrow.lab.data.split import Data
from regrow.lab.training.folder import RunFolder
from regrow.lab.training.progress import PlainLines
from regrow.lab.training.session import evaluate, make_session

COLOURS = {"blue": (30, 60, 220), "green": (20, 200, 40), "red": (230, 20, 30)}
A_CLASS = {"train": 16, "val": 4}
load = partial(image_folder, "photographs", 16, 0.3)


def photograph(colour: tuple[int, int, int], number: int) -> Image.Image:
    """Noise around a colour, every one of another size, some in another mode than RGB."""
    width, height = 20 + number % 5, 28 - number % 7
    noise = torch.randint(-20, 20, (height, width, 3), generator=torch.Generator().manual_seed(number))
    pixels = (noise + torch.tensor(colour)).clamp(0, 255).to(torch.uint8)
    image = Image.fromarray(pixels.numpy())
    return image.convert({1: "L", 2: "CMYK"}.get(number % 8, "RGB"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for (part, images), (name, colour) in product(A_CLASS.items(), COLOURS.items()):
        folder = tmp_path / "photographs" / part / name
        folder.mkdir(parents=True)
        for number in range(images):
            photograph(colour, number).save(folder / f"{number}.jpeg")
    return tmp_path


@pytest.fixture
def make(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Settings of a run of a second on those images."""
    monkeypatch.setitem(models.MODELS, "wrn-tiny", partial(models.WideResNet, 10, 1, width=0.5))
    recipe = Recipe(
        name="photographs",
        about="for tests",
        model="wrn-tiny",
        classes=3,
        data=load,
        epochs=2,
        batch_size=8,
        lr=0.1,
        lr_drops=(60, 90),
        schedule_steps=100,
        label_smoothing=0.1,
        channels_last=True,
    )
    return lambda *overrides, **more: make_settings(recipe, overrides=overrides, **{"density": 0.2, **more})


def one_file(root: Path, part: str) -> Path:
    return root / "photographs" / part / "green" / "3.jpeg"


def epoch(data: Data, workers: int, first: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    split = data.reading(Reading(workers)).train
    return list(split.load(split.epoch_batches(0, 1, 8, first=first)))


def assert_equal(one: list, other: list) -> None:
    for (x, y), (x_again, y_again) in zip(one, other, strict=True):
        assert torch.equal(x, x_again)
        assert torch.equal(y, y_again)


def test_batches_are_the_same_for_any_number_of_workers_and_from_the_middle(root: Path):
    data = load(root, 0, 0.1)
    assert [len(split) for split in data] == [43, 5, 12]
    before = torch.get_rng_state()
    batches = epoch(data, 0)
    assert [tuple(x.shape) for x, _ in batches] == [(8, 3, 16, 16)] * 5 + [(3, 3, 16, 16)]
    assert_equal(epoch(data, 1), batches)
    assert_equal(epoch(data, 2, first=3), batches[3:])
    assert torch.equal(torch.get_rng_state(), before)
    split = data.train
    other_epoch = split.load(split.epoch_batches(0, 2, 8))
    assert not torch.equal(next(other_epoch)[0], batches[0][0])


def test_an_image_is_cropped_anew_in_every_epoch(root: Path):
    split = load(root, 0, 0.1).train
    index = torch.tensor([5])
    crops = [split.batch(index, seeds)[0] for seeds in (torch.tensor([1]), torch.tensor([1]), torch.tensor([2]), None)]
    assert torch.equal(crops[0], crops[1])
    assert not torch.equal(crops[0], crops[2])
    assert not torch.equal(crops[0], crops[3])


def test_the_centre_is_shown_and_normalised_whatever_the_mode(root: Path):
    test = load(root, 0, 0.1).test.to(torch.device("cpu"), torch.channels_last)
    ((x, y),) = test.batches(12)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert y.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    mean, std = (torch.tensor(share).view(3, 1, 1) for share in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = 255 * (x * std + mean)
    colours = torch.tensor(list(COLOURS.values())).float()
    for number in (0, 2, 3):  # RGB, CMYK, RGB
        assert (pixels[number::4].mean((2, 3)) - colours).abs().max() < 6
    gray = pixels[1::4]
    assert (gray - gray.mean(1, keepdim=True)).abs().max() < 1e-3


def test_the_centre_crop_is_the_middle_of_the_shorter_side(root: Path):
    noise = torch.randint(256, (18, 26, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    file = root / "photographs" / "val" / "blue" / "0.png"  # 18 pixels are resized to 18, of which 16 are shown
    Image.fromarray(noise.numpy()).save(file)
    images = load(root, 0, 0.1).test.images
    read = images[torch.tensor([images.files.tolist().index(b"blue/0.png")]), None]
    assert torch.equal(read.pixels[0], noise[1:17, 5:21].permute(2, 0, 1))


def test_a_part_of_the_images_keeps_files_and_labels_together(root: Path):
    part = load(root, 0, 0.1).train.first(10)
    assert len(part) == 10
    names = [file.decode().split("/")[0] for file in part.images.files]
    assert [sorted(COLOURS)[label] for label in part.y.tolist()] == names


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_file_is_named_and_refused(root: Path, workers: int):
    file = one_file(root, "val")
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(RunError, match=rf"{file} cannot be decoded \(.+\); replace or delete it, or .*--skip-corrupt"):
        list(load(root, 0, 0.1).test.reading(Reading(workers)).batches(8))


def test_a_corrupt_file_is_named_and_left_out(root: Path, make: Callable[..., Settings], tmp_path: Path, capsys):
    settings = make("epochs=1")
    whole = train(settings, out=tmp_path / "whole", data_dir=root, threads=1)
    for part in ("train", "val"):
        one_file(root, part).write_bytes(b"no image")
    lines = PlainLines()
    summary = train(settings, out=tmp_path / "run", data_dir=root, threads=1, skip_corrupt=True, reporter=lines)
    output = capsys.readouterr().out
    for part in ("train", "val"):
        assert f"left out: {one_file(root, part)} cannot be decoded (" in output
    assert summary["steps"] == whole["steps"] == 6
    assert summary["test_error"] * 11 / 100 == pytest.approx(round(summary["test_error"] * 11 / 100))


def test_without_any_image_a_batch_is_refused(root: Path):
    for file in (root / "photographs" / "train").rglob("*.jpeg"):
        file.write_bytes(b"no image")
    split = load(root, 0, 0.1).reading(Reading(0, skip_corrupt=True, note=lambda text: None)).train
    with pytest.raises(RunError, match="no image of a whole batch can be decoded"):
        next(iter(split.batches(8)))


def test_a_file_that_is_gone_ends_the_run_whatever_is_skipped(root: Path):
    split = load(root, 0, 0.1).reading(Reading(1, skip_corrupt=True)).test
    one_file(root, "val").unlink()
    with pytest.raises(RunError, match=rf"{one_file(root, 'val')} cannot be read \(No such file.*--resume"):
        list(split.batches(8))


def test_folders_that_are_no_data_set_are_explained(root: Path, make: Callable[..., Settings]):
    with pytest.raises(
        RunError, match=rf"no images in {root / 'else' / 'train'} .*folder that holds else/ with --data-dir"
    ):
        image_folder("else", 16, 0.3, root, 0, 0.1)
    few = make_settings(replace(make().recipe, classes=2), density=0.2)
    with pytest.raises(RunError, match="the data set has 3 classes, but photographs needs 2"):
        make_session(few, root)
    (root / "photographs" / "val" / "red").rename(root / "photographs" / "val" / "rot")
    with pytest.raises(RunError, match=r"same classes; red is in only one of them"):
        load(root, 0, 0.1)


def test_a_run_resumes_to_the_same_bits_with_other_workers(make: Callable[..., Settings], root: Path, tmp_path: Path):
    summary = train(make(), out=tmp_path / "untouched", data_dir=root, threads=1, workers=1)
    in_the_middle = SignalAt(1, batch=1)
    with pytest.raises(Interrupted):
        train(make(), out=tmp_path / "run", data_dir=root, threads=1, workers=2, reporter=in_the_middle)
    train(make(), out=tmp_path / "run", data_dir=root, resume=True, workers=0)
    assert_same_run(tmp_path / "untouched", tmp_path / "run")
    rows = RunFolder(tmp_path / "untouched").rows("metrics.jsonl")
    waited = sum(row["data_wait_share"] * row["seconds"] for row in rows)
    assert summary["data_wait_share"] == pytest.approx(waited / sum(row["seconds"] for row in rows))
    assert 0 < summary["data_wait_share"] < 1


def test_labels_are_smoothed_in_training_alone(make: Callable[..., Settings], root: Path):
    session = make_session(make("label_smoothing=0.3"), root)
    x, y = session.data.train.batch(torch.arange(8))
    with torch.no_grad(), torch.random.fork_rng():  # the network has dropout
        shares = session.network(x).log_softmax(1)
    wanted = 0.7 * shares[torch.arange(8), y] + 0.3 * shares.mean(1)
    torch.testing.assert_close(session.learn(x, y), -wanted.mean())
    assert evaluate(session, session.data.test).error in [100 * wrong / 12 for wrong in range(13)]


def test_real_photographs_are_read(imagenette_root: Path):
    data = image_folder("imagenette224", 64, 0.35, imagenette_root, 0, 0.1).reading(Reading(0))
    assert [len(split) for split in data] == [2250, 250, 1000]
    assert torch.bincount(data.test.y).tolist() == [100] * 10
    x, _ = next(data.train.load(data.train.epoch_batches(0, 0, 64)))
    assert x.shape == (64, 3, 64, 64)
    assert x.mean((0, 2, 3)).abs().max() < 0.5
    assert (x.std((0, 2, 3)) - 1).abs().max() < 0.5


@pytest.mark.slow
def test_resnet50_trains_on_real_photographs(imagenette_root: Path, tmp_path: Path):
    settings = make_settings("resnet50-imagenette", density=0.2, overrides=["epochs=1", "images=96"])
    summary = train(settings, out=tmp_path / "run", data_dir=imagenette_root)
    assert (summary["steps"], summary["epochs"]) == (3, 1)
    assert summary["active_weights"] == round(0.2 * summary["prunable_weights"])
    (row,) = RunFolder(tmp_path / "run").rows("metrics.jsonl")
    assert 2 < row["loss"] < 3.5  # ten classes by chance: 2.3
