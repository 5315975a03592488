"""The mean of models is that of their dense weights, whatever their topologies and storages."""

import copy

import pytest
import torch
from torch import nn

import regrow
from helpers import loss_at
from regrow.integrations.averaging import average

STORAGES = {
    "masked": ["masked"] * 4,
    "compressed": ["compressed"] * 4,
    "mixed": ["compressed", "masked", "dense", "masked"],
    "dense first": ["dense", "masked", "compressed", "masked"],
}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(8, 12), nn.BatchNorm1d(12), nn.Linear(12, 8)
        self.third = nn.Linear(8, 12)
        self.third.weight = self.first.weight
        self.out = nn.Linear(12, 4)

    def forward(self, x):
        return self.out(self.third(self.second(self.norm(self.first(x)).relu())).relu())


def plain():
    return nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4))


def trained(make, storages, dtype=torch.float64):
    """Models that were trained apart, each with topologies of its own."""
    models = []
    for seed, storage in enumerate(storages):
        torch.manual_seed(seed)
        model = make().to(dtype)
        if storage != "dense":
            model = regrow.sparsify(model, 0.2, storage=storage, seed=seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        if storage != "dense":
            regrow.RigL(model, optimizer, total_steps=10, update_every=2)
        for step in range(4):
            optimizer.zero_grad()
            loss_at(model, 10 * seed + step, dtype=dtype).backward()
            optimizer.step()
        models.append(model)
    return models


def dense_mean(models, shares):
    states = [regrow.densify(model).state_dict() for model in models]
    total = sum(shares)
    return {
        name: sum(share * state[name] for share, state in zip(shares, states, strict=True)) / total
        if first.is_floating_point()
        else first
        for name, first in states[0].items()
    }


@pytest.mark.parametrize("make", [plain, Tied])
@pytest.mark.parametrize("storages", STORAGES.values(), ids=STORAGES)
@pytest.mark.parametrize("shares", [None, [600, 0, 1000, 400]])
def test_it_is_the_mean_of_the_dense_weights(make, storages, shares):
    models = trained(make, storages)
    before = copy.deepcopy([model.state_dict() for model in models])
    mean = average(models, shares)
    expected = dense_mean(models, shares or [1] * len(models))
    for name, value in regrow.densify(mean).state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-14)
    torch.testing.assert_close(mean.eval()(torch.ones(2, 8).double()), computed(make, expected))
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def computed(make, state):
    model = make().double().eval()
    model.load_state_dict(state)
    return model(torch.ones(2, 8).double())


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_active_is_what_is_active_in_any(storage):
    models = trained(plain, [storage] * 3)
    mean = regrow.sparse_weights(average(models))
    for name, weight in mean.items():
        sets = [set(regrow.sparse_weights(model)[name].indices.tolist()) for model in models]
        assert weight.indices.tolist() == sorted(set.union(*sets))
        assert weight.storage == storage
        assert len(set(map(frozenset, sets))) == 3, "no topologies of their own"


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_the_mean_trains_on(storage):
    mean = average(trained(plain, [storage] * 3))
    before = {name: weight.indices for name, weight in regrow.sparse_weights(mean).items()}
    optimizer = torch.optim.SGD(mean.parameters(), lr=0.1, momentum=0.9)
    regrow.SparseMomentum(mean, optimizer, total_steps=9, update_every=1)
    loss_at(mean, 0, dtype=torch.float64).backward()
    optimizer.step()
    after = regrow.sparse_weights(mean)
    assert sum(w.active for w in after.values()) == sum(map(len, before.values()))
    assert any(not torch.equal(weight.indices, before[name]) for name, weight in after.items())


def test_half_types_add_up_in_float32():
    models = [nn.Linear(1, 1, bias=False).bfloat16() for _ in range(300)]
    for model in models:
        nn.init.ones_(model.weight)
    assert average(models).weight.item() == 1  # bfloat16 sums of 1 / 300 end below


def sparse(**settings):
    return regrow.sparsify(plain(), 0.2, **settings)


def with_stray():
    model = sparse(storage="masked")
    with torch.no_grad():
        model[0].weight.fill_(1)
    return model


ERRORS = {
    "no models": (lambda: average([]), "models is empty"),
    "other shapes": (lambda: average([sparse(), nn.Linear(8, 12)]), "model 1 does not match; 11 entries differ"),
    "further layer": (lambda: average([sparse(), plain().append(nn.BatchNorm1d(4))]), "4.bias .* there, None in model"),
    "shares for others": (lambda: average([sparse()], [1, 2]), "2 shares for 1 models"),
    "negative share": (lambda: average([sparse(), sparse()], [1, -1]), "at least 0, and not all 0"),
    "no share": (lambda: average([sparse(), sparse()], [0, 0]), "at least 0, and not all 0"),
    "infinite share": (lambda: average([sparse(), sparse()], [float("inf"), 1]), "must be finite"),
    "inactive weights": (lambda: average([sparse(), with_stray()]), "inactive weights of 0.weight are not 0"),
}


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_name_what_differs(call, message):
    with pytest.raises(ValueError, match=message):
        call()
