"""Tasks of the race: data, networks, and what each contender may choose among."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regrow.lab.data import datasets

Settings = dict[str, Any]


class Examples(NamedTuple):
    x: Tensor
    y: Tensor


class Data(NamedTuple):
    train: Examples
    validation: Examples
    test: Examples
    classes: int


@dataclass(frozen=True)
class Contender:
    """One way to train.

    Attributes:
        space: what a trial draws, by setting.
        fixed: what all trials have.
        tuned_at: epochs of a trial.
        lengths: epochs of the trainings of the frontier, each with a schedule of its own.
    """

    space: Mapping[str, list[Any]]
    tuned_at: float
    lengths: tuple[float, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_sparse(self) -> bool:
        return "density" in {**self.space, **self.fixed}


@dataclass(frozen=True)
class Task:
    """A data set, a network, a measure, and the contenders.

    Attributes:
        measure: "error" (percent of wrong classes) or "loss" (nats).
        network: (classes, settings) -> the dense network; its last layer is called "head".
        loss: (network, x, y, settings) -> the loss that is trained.
    """

    name: str
    about: str
    measure: str
    load: Callable[[Path], Data]
    network: Callable[[int, Settings], nn.Module]
    loss: Callable[[nn.Module, Tensor, Tensor, Settings], Tensor]
    contenders: Mapping[str, Contender]
    dense: tuple[str, ...] = ()
    """Layers that stay dense."""


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> Tensor:
    return F.cross_entropy(model(x), y, label_smoothing=settings.get("smoothing", 0.0))


# -- MNIST


def mnist(root: Path) -> Data:
    data = datasets.mnist(root, 0, 0.1)

    def whole(split: Any) -> Examples:
        x, y = split.batch(torch.arange(len(split)))
        return Examples(x.flatten(1), y)

    return Data(whole(data.train), whole(data.validation), whole(data.test), 10)


class MLP(nn.Sequential):
    """Two hidden layers."""

    def __init__(self, inputs: int, width: int, classes: int, norm: bool = False, dropout: float = 0.0):
        super().__init__()
        if dropout:
            self.add_module("dropout", nn.Dropout(dropout))
        for number, features in enumerate((inputs, width), 1):
            self.add_module(f"hidden{number}", nn.Linear(features, width))
            if norm:
                self.add_module(f"norm{number}", nn.BatchNorm1d(width))
            self.add_module(f"relu{number}", nn.ReLU())
        self.add_module("head", nn.Linear(width, classes))


_SCHEDULE = {
    "learning_rate": [0.05, 0.1, 0.2, 0.4],
    "weight_decay": [1e-4, 5e-4, 1e-3],
    "smoothing": [0.0, 0.1],
    "warm_up": [0.1, 0.3],
    "norm": [False, True],
}
_TOPOLOGY = {
    "density": [0.02, 0.05, 0.1],
    "distribution": ["uniform", "er"],
    "method": ["sparse-momentum", "rigl"],
    "prune_rate": [0.3, 0.5],
    "updates": [15, 30],
}

# -- A wide table


def table(root: Path) -> Data:
    """14,000 examples to train with, 3,000 for validation, 3,000 for the test."""
    x, y = datasets.informative_table()
    cuts = (slice(0, 14_000), slice(14_000, 17_000), slice(17_000, None))
    return Data(*(Examples(x[cut], y[cut]) for cut in cuts), 10)


# -- Next words


BUCKETS = 2**17
WORDS = 10_000
ORDERS = 4
"""N-grams before a word, of one to so many words."""


def words(root: Path) -> Data:
    """WikiText-2's validation text: the hashes of the n-grams before a word, and the word.

    The end of the text is held out: a twentieth for validation, then a twentieth for the test.
    """
    text = (root / "text" / "wikitext-2-valid.txt").read_text().split()
    first, second = (len(text) * share // 20 for share in (18, 19))
    common = [word for word, _ in Counter(text[:first]).most_common(WORDS - 1) if word != "<unk>"]
    number = {word: index for index, word in enumerate(["<unk>", *common])}
    tokens = torch.tensor([number.get(word, 0) for word in text])
    features, hashed = [], torch.zeros(len(tokens) - ORDERS, dtype=torch.int64)
    for order in range(1, ORDERS + 1):  # a polynomial in the words, modulo a prime
        hashed = (hashed * 1_000_003 + tokens[ORDERS - order : len(tokens) - order] + 1) % 2_147_483_647
        features.append((hashed + order * 7_919) % BUCKETS)
    x, y = torch.stack(features, 1), tokens[ORDERS:]
    cuts = (slice(0, first), slice(first, second), slice(second, None))
    return Data(*(Examples(x[cut], y[cut]) for cut in cuts), len(number))


class NextWord(nn.Module):
    """Sums the vectors of n-grams; one hidden layer; a score for each word."""

    def __init__(self, classes: int, width: int, dropout: float):
        super().__init__()
        self.grams = nn.EmbeddingBag(BUCKETS, width, mode="sum", sparse=True)
        nn.init.normal_(self.grams.weight, std=0.5)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        return self.dropout(F.relu(self.hidden(self.dropout(F.relu(self.grams(x))))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def sampled_softmax(model: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """Cross-entropy over the right words and words drawn by a log-uniform law, corrected for it (Jean et al. 2015,
    arXiv:1412.2007)."""
    classes = model.head.out_features
    uniform = torch.rand(settings["samples"], generator=settings["draws"])
    drawn = ((uniform * torch.log(torch.tensor(classes + 1.0))).exp() - 1).long().clamp(max=classes - 1).unique()
    kept, place = torch.cat([y, drawn]).unique(return_inverse=True)
    expected = settings["samples"] * ((kept + 2.0) / (kept + 1.0)).log() / torch.log(torch.tensor(classes + 1.0))
    scores = F.linear(model.features(x), model.head.weight[kept], model.head.bias[kept])
    often = -torch.expm1(-expected)  # the chance to be among those drawn
    return F.cross_entropy(scores - often.log(), place[: len(y)])


_WORDS = {
    "learning_rate": [3e-4, 1e-3, 2e-3, 4e-3],
    "weight_decay": [0.0, 0.01, 0.1],
    "dropout": [0.0, 0.2, 0.5],
    "warm_up": [0.1, 0.3],
}

TASKS = {
    task.name: task
    for task in (
        Task(
            name="mnist",
            about="MNIST, a wide MLP of two hidden layers",
            measure="error",
            load=mnist,
            network=lambda classes, settings: MLP(784, settings["width"], classes, settings["norm"]),
            loss=cross_entropy,
            contenders={
                "dense": Contender({**_SCHEDULE, "width": [512, 1024]}, 4, (1, 2, 4, 8), {"batch": 128}),
                "sparse": Contender(
                    {**_SCHEDULE, **_TOPOLOGY, "width": [1024, 2048]}, 8, (4, 8, 16, 32), {"batch": 128}
                ),
            },
            dense=("head",),
        ),
        Task(
            name="table",
            about="10,000 inputs of which 20 tell the class (make_classification), an MLP of two hidden layers",
            measure="error",
            load=table,
            network=lambda classes, settings: MLP(10_000, settings["width"], classes, dropout=settings["dropout"]),
            loss=cross_entropy,
            contenders={
                "dense": Contender(
                    {
                        "learning_rate": [0.01, 0.02, 0.05, 0.1],
                        "weight_decay": [5e-4, 5e-3, 2e-2, 5e-2],
                        "dropout": [0.0, 0.3, 0.6],
                        "warm_up": [0.1, 0.3],
                        "width": [32, 64, 128, 256],
                    },
                    6,
                    (3, 6, 12, 24),
                    {"batch": 128},
                ),
                "sparse": Contender(
                    {
                        "learning_rate": [0.02, 0.05, 0.1, 0.2],
                        "weight_decay": [5e-4, 5e-3, 2e-2],
                        "dropout": [0.0, 0.3],
                        "warm_up": [0.1, 0.3],
                        "width": [64, 128, 256],
                        "density": [0.01, 0.02, 0.05],
                        "distribution": ["uniform"],
                        "method": ["sparse-momentum", "rigl"],
                        "prune_rate": [0.3, 0.5],
                        "updates": [30, 60],
                    },
                    12,
                    (1.5, 3, 6, 12, 24, 48),
                    {"batch": 128},
                ),
            },
            dense=("head",),
        ),
        Task(
            name="words",
            about="WikiText-2's next words from hashed n-grams: 131,072 inputs, 10,000 outputs",
            measure="loss",
            load=words,
            network=lambda classes, settings: NextWord(classes, settings["width"], settings["dropout"]),
            loss=cross_entropy,
            contenders={
                "dense": Contender({**_WORDS, "width": [256]}, 1, (0.5, 1, 2), {"batch": 512, "optimizer": "adam"}),
                "sampled": Contender(
                    {**_WORDS, "width": [256], "samples": [500, 2000]},
                    1,
                    (0.5, 1, 2, 4),
                    {"batch": 512, "optimizer": "adam"},
                ),
                "sparse": Contender(
                    {
                        **_WORDS,
                        "width": [256, 512],
                        "density": [0.02, 0.05, 0.1],
                        "method": ["sparse-momentum", "rigl"],
                        "prune_rate": [0.3],
                        "updates": [5, 15],
                    },
                    1,
                    (0.5, 1, 2, 4),
                    {"batch": 512, "optimizer": "adam", "distribution": "uniform"},
                ),
            },
            dense=("grams",),
        ),
    )
}
