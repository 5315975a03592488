"""Batches: order, crops and flips, normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from regrow.lab import UsageError
from regrow.lab.data.augmentation import PADDING, crop_and_flip, draw_moves
from regrow.lab.data.split import Split


def random_images(n: int = 40, height: int = 8, width: int = 6) -> Tensor:
    return torch.randint(256, (n, 3, height, width), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def one_by_one(images: Tensor, moves: Tensor) -> Tensor:
    """Pad, crop and mirror each image by itself."""
    done = []
    for image, (down, right, flip) in zip(images, moves.tolist(), strict=True):
        padded = F.pad(image.float()[None], (PADDING,) * 4, mode="reflect")[0]
        crop = padded[:, down : down + image.shape[1], right : right + image.shape[2]]
        done.append(crop.flip(2) if flip else crop)
    return torch.stack(done).to(images.dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_crops_and_flips_are_those_of_single_images(dtype: torch.dtype):
    images = random_images(400).to(dtype)
    moves = draw_moves(400, torch.Generator().manual_seed(0))
    moved = crop_and_flip(images, moves)
    assert moved.dtype == dtype
    assert torch.equal(moved, one_by_one(images, moves))


def test_every_crop_and_flip_is_drawn_equally_often():
    moves = draw_moves(81_000, torch.Generator().manual_seed(0))
    assert moves.min(0).values.tolist() == [0, 0, 0]
    assert moves.max(0).values.tolist() == [2 * PADDING, 2 * PADDING, 1]
    counts = torch.bincount(moves[:, 0] * 18 + moves[:, 1] * 2 + moves[:, 2], minlength=162)
    assert (counts - 500).abs().max() < 5 * 500**0.5


def test_the_middle_crop_is_the_image():
    images = random_images(5)
    assert torch.equal(crop_and_flip(images, torch.tensor([[PADDING, PADDING, 0]] * 5)), images)


def test_a_batch_is_chosen_moved_and_normalised():
    images, mean, std = (
        random_images(),
        torch.tensor([1.0, 2, 3]).view(3, 1, 1),
        torch.tensor([2.0, 4, 8]).view(3, 1, 1),
    )
    split = Split(images, torch.arange(40), mean, std, augmented=True).to(torch.device("cpu"), torch.channels_last)
    index, moves = torch.tensor([7, 3]), torch.tensor([[0, 1, 1], [8, 4, 0]])
    x, y = split.batch(index, moves)
    torch.testing.assert_close(x, (one_by_one(images[index], moves).float() - mean) / std)
    assert y.tolist() == [7, 3]
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_float_examples_are_taken_as_they_are():
    split = Split(torch.randn(5, 1, 4, 4), torch.arange(5))
    x, _ = split.batch(torch.tensor([2, 2]))
    assert torch.equal(x, split.x[[2, 2]])
    assert [len(labels) for _, labels in split.batches(2)] == [2, 2, 1]
    assert split.epoch_moves(0, 0) is None


def test_order_and_moves_depend_on_seed_and_epoch_alone():
    split = Split(random_images(), torch.arange(40), augmented=True)
    drawn = [(split.epoch_order(*when), split.epoch_moves(*when)) for when in ((0, 3), (0, 3), (0, 4), (1, 3))]
    for again, parts in zip((True, False, False), drawn[1:], strict=True):
        assert all(torch.equal(first, other) == again for first, other in zip(drawn[0], parts, strict=True))


def test_part_of_the_images_is_chosen_at_random_but_the_same_for_every_seed():
    split = Split(random_images(), torch.arange(40))
    part = split.first(10)
    assert len(part) == 10
    assert torch.equal(part.x, split.x[part.y])
    assert part.y.tolist() == split.first(10).y.tolist() != list(range(10))
    with pytest.raises(UsageError, match="images=41 must be at most 40"):
        split.first(41)


def test_batches_of_an_epoch_go_on_where_it_was_left():
    split = Split(random_images(), torch.arange(40), augmented=True)
    whole = list(split.epoch_batches(0, 3, 16))
    assert [len(index) for index, _ in whole] == [16, 16, 8]
    assert torch.equal(torch.cat([index for index, _ in whole]), split.epoch_order(0, 3))
    rest = split.epoch_batches(0, 3, 16, first=1)
    for (index, moves), (again, moves_again) in zip(whole[1:], rest, strict=True):
        assert torch.equal(index, again)
        assert torch.equal(moves, moves_again)
