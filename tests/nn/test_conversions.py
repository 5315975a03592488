"""Tracing takes what models take: a tensor, a tuple, a mapping, a list."""

from collections import UserDict

import pytest
import torch
from torch import nn

import regrow
from regrow.nn.blocked import trace


class Network(nn.Module):
    """A convolution, sorted, so that its activation leaves the layout and its gradient enters it again."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3))

    def run(self, x):
        return torch.sort(self.body(x), 1).values


class Plain(Network):
    def forward(self, x, scale=1):
        return self.run(x) * scale


class Keywords(Network):
    def forward(self, *, x, scale=1):
        return {"logits": self.run(x) * scale}


class Listing(Network):
    """As detectors do: one list of images."""

    def forward(self, images):
        assert isinstance(images, list)
        return [self.run(torch.stack(images))]


class Batch(Network):
    """One argument that is a mapping."""

    def forward(self, batch):
        return UserDict(logits=self.run(batch["x"]))


IMAGES = torch.ones(2, 1, 8, 8)
INPUTS = {
    "tensor": (Plain, IMAGES),
    "tuple": (Plain, (IMAGES, 2)),
    "dict": (Plain, {"x": IMAGES, "scale": 2}),
    "keywords alone": (Keywords, {"x": IMAGES}),
    "as of a tokenizer": (Keywords, UserDict(x=IMAGES)),
    "list": (Listing, list(IMAGES)),
    "mapping in a tuple": (Batch, ({"x": IMAGES},)),
}


def sparse(kind):
    return regrow.sparsify(kind(), 0.3, storage="compressed", seed=0)


@pytest.mark.parametrize(("kind", "example"), INPUTS.values(), ids=INPUTS)
def test_what_models_take(kind, example):
    found = [(conversion.into, conversion.operation) for conversion in trace(sparse(kind), example)]
    assert found == [(True, "SparseConv2d"), (False, "sort"), (True, "sort backward")]
    assert len(regrow.summary(sparse(kind), example).conversions) == 3


WRONG = {
    "keywords": (Batch, {"x": IMAGES}, r"keyword arguments x, and Batch cannot .*TypeError.*\(mapping,\)"),
    "positional": (
        Keywords,
        IMAGES,
        r"1 positional argument \(Tensor\), and Keywords cannot .* keyword arguments a dict",
    ),
    "is_distributed": (Plain, (IMAGES, 2, 3), r"3 positional arguments \(Tensor, int, int\)"),
    "list": (Plain, [IMAGES, 2], r"1 positional argument \(list\).*several arguments are a tuple"),
}


@pytest.mark.parametrize(("kind", "example", "message"), WRONG.values(), ids=WRONG)
def test_a_call_that_fails_says_how_the_input_was_understood(kind, example, message):
    with pytest.raises(ValueError, match=message):
        trace(sparse(kind), example)
    assert len(trace(sparse(Plain), IMAGES)) == 3
