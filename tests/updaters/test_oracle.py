"""The product equals an independent naive implementation of DESIGN section 2, step by step, in float64."""

import math

import pytest
import torch
from torch import nn

import regrow
from helpers import masked
from oracle import naive

TOTAL_STEPS = 24
UPDATE_EVERY = 4
BATCH = 12


class Net(nn.Module):
    """Two convolutions and two linear layers without bias, so that all parameters are sparse weights."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, bias=False)
        self.conv2 = nn.Conv2d(4, 4, 3, stride=2, bias=False)
        self.fc1 = nn.Linear(16, 20, bias=False)
        self.fc2 = nn.Linear(20, 3, bias=False)

    def forward(self, x):
        x = torch.tanh(self.conv2(torch.tanh(self.conv1(x))))
        return self.fc2(torch.tanh(self.fc1(x.flatten(1))))


SGD = {
    "nesterov": dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-3),
    "dampening": dict(lr=0.1, momentum=0.8, dampening=0.3),
}
ADAM = {"adam": dict(lr=0.01, weight_decay=1e-2), "adamw": dict(lr=0.01, betas=(0.8, 0.95), weight_decay=1e-1)}


def optimizers(kind, parameters):
    """The same optimizer twice: torch's and the oracle's."""
    if kind in SGD:
        return torch.optim.SGD(parameters, **SGD[kind]), naive.NaiveSGD(**SGD[kind])
    make = torch.optim.AdamW if kind == "adamw" else torch.optim.Adam
    return make(parameters, **ADAM[kind]), naive.NaiveAdam(**ADAM[kind], decoupled=kind == "adamw")


def batches():
    generator = torch.Generator().manual_seed(1)
    for _ in range(TOTAL_STEPS):
        inputs = torch.randn(BATCH, 1, 8, 8, generator=generator, dtype=torch.float64)
        yield inputs, torch.randint(3, (BATCH,), generator=generator)


def loss_of(net, inputs, targets):
    return nn.functional.cross_entropy(net(inputs), targets)


def backward(net, inputs, targets, micro_batches):
    """The mean loss of a batch, accumulated over equal parts of it."""
    for part, labels in zip(inputs.chunk(micro_batches), targets.chunk(micro_batches), strict=True):
        (loss_of(net, part, labels) / micro_batches).backward()


def compare(net, oracle, optimizer, updater):
    for name, weight in regrow.sparse_weights(net).items():
        mask = oracle.masks[name]
        assert torch.equal(weight.mask, mask), name
        torch.testing.assert_close(weight.parameter.detach(), oracle.weights[name], rtol=1e-10, atol=1e-12)
        assert not weight.parameter[~mask].any()
        for key, expected in oracle.state[name].items():
            if not optimizer.state[weight.parameter]:
                continue  # no gradient has come yet
            state = optimizer.state[weight.parameter][key]
            torch.testing.assert_close(state[mask], expected[mask], rtol=1e-9, atol=1e-12)
            assert not state[~mask].any()
    assert len(updater.history) == len(oracle.history)
    for row, expected in zip(updater.history, oracle.history, strict=True):
        assert row == expected | {
            "prune_rate": pytest.approx(expected["prune_rate"]),
            "importance": pytest.approx(expected["importance"], rel=1e-9),
        }


CASES = [
    dict(optimizer="nesterov"),
    dict(optimizer="dampening"),
    dict(optimizer="adam"),
    dict(optimizer="adamw"),
    dict(optimizer="nesterov", window=3),
    dict(optimizer="adamw", window=2),
    dict(optimizer="nesterov", window=UPDATE_EVERY + 3),
    dict(optimizer="nesterov", clip=0.01),
    dict(optimizer="adamw", clip=0.01, micro_batches=3),
    dict(optimizer="nesterov", micro_batches=3, window=2),
    dict(optimizer="nesterov", share="none"),
    dict(optimizer="nesterov", share="momentum-per-flop"),
    dict(optimizer="nesterov", max_density=0.55),
    dict(optimizer="nesterov", schedule="linear", prune_rate=0.9),
    dict(optimizer="adam", schedule="constant", prune_rate=0.3),
    dict(optimizer="nesterov", density=0.85),
    dict(optimizer="nesterov", inherit_momentum=False),
    dict(optimizer="adamw", inherit_momentum=False),
    dict(optimizer="adam", inherit_momentum=False, window=2),
]


def id_of(case):
    return "-".join(str(value) for value in case.values())


@pytest.mark.parametrize("case", CASES, ids=id_of)
def test_product_equals_the_oracle_after_every_step(case):
    case = dict(case)
    kind, clip, micro_batches = case.pop("optimizer"), case.pop("clip", None), case.pop("micro_batches", 1)
    density, window = case.pop("density", 0.4), case.pop("window", None)
    torch.manual_seed(0)
    net = masked(Net().double(), density, seed=3)
    twin = Net().double()
    weights = regrow.sparse_weights(net)
    optimizer, reference = optimizers(kind, net.parameters())
    ours = {"redistribution" if key == "share" else key: value for key, value in case.items()}
    updater = regrow.SparseMomentum(
        net, optimizer, total_steps=TOTAL_STEPS, update_every=UPDATE_EVERY, window=window, **ours
    )
    oracle = naive.NaiveSparseMomentum(
        {name: weight.parameter.detach() for name, weight in weights.items()},
        {name: weight.mask for name, weight in weights.items()},
        reference,
        total_steps=TOTAL_STEPS,
        update_every=UPDATE_EVERY,
        window="all" if window is None else window,
        flops={"conv1.weight": 72.0, "conv2.weight": 8.0, "fc1.weight": 2.0, "fc2.weight": 2.0},
        **case,
    )
    for inputs, targets in batches():
        naive.copy_weights(twin, oracle)
        gradients = naive.dense_gradients(twin, list(weights), lambda x=inputs, y=targets: loss_of(twin, x, y))
        optimizer.zero_grad()
        backward(net, inputs, targets, micro_batches)
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
            factor = naive.clip_factor(gradients, oracle.masks, [], clip)
            assert factor < 1
            gradients = {name: gradient * factor for name, gradient in gradients.items()}
        optimizer.step()
        oracle.step(gradients)
        compare(net, oracle, optimizer, updater)
    assert len(updater.history) == len(weights) * (math.ceil(TOTAL_STEPS / UPDATE_EVERY) - 1)
    moved = sum(row["grown"] for row in updater.history)
    assert moved > 0


class Fed(nn.Module):
    """Layers whose gradient is whatever tensor is fed: loss = sum of weight * gradient."""

    def __init__(self, sizes):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size, 1, bias=False) for size in sizes)

    def forward(self, gradients):
        pairs = zip(self.layers, gradients, strict=True)
        return sum((layer.weight * gradient).sum() for layer, gradient in pairs if gradient is not None)


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.filterwarnings("ignore:all importances are 0")
def test_ties_zeros_and_layers_without_gradient(window):
    """Gradients of few distinct values tie all the time; some layers get none, and one interval is all zero."""
    sizes = [8, 16, 32, 16]
    torch.manual_seed(0)
    net = masked(Fed(sizes).double(), 0.5, seed=1)
    weights = regrow.sparse_weights(net)
    optimizer, reference = optimizers("nesterov", net.parameters())
    updater = regrow.SparseMomentum(net, optimizer, total_steps=40, update_every=4, window=window)
    oracle = naive.NaiveSparseMomentum(
        {name: weight.parameter.detach() for name, weight in weights.items()},
        {name: weight.mask for name, weight in weights.items()},
        reference,
        total_steps=40,
        update_every=4,
        window="all" if window is None else window,
    )
    generator = torch.Generator().manual_seed(5)
    for step in range(40):
        gradients = [torch.randint(-1, 2, (1, size), generator=generator).double() for size in sizes]
        gradients[1] = None if 8 <= step < 13 else gradients[1]
        gradients[3] = None if step % 3 == 0 else gradients[3]
        optimizer.zero_grad()
        net(gradients).backward()
        optimizer.step()
        oracle.step(dict(zip(weights, gradients, strict=True)))
        compare(net, oracle, optimizer, updater)
