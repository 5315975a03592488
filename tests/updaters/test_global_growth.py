"""Growth and pruning across layers, against a list of all scores of the network."""

import math

import pytest
import torch

import regrow
from helpers import fed, feed, indices, loss_at, mlp
from regrow import criteria, schedules
from regrow.redistribution import by_rate, globally


def naive(active, values, gradients, rate, amount):
    """The active sets after an update: everything in lists of (score, layer, position)."""
    pruned = {name: min(math.ceil(rate * len(own)), len(own) - 1) for name, own in active.items()}
    layers = list(active)
    smallest = sorted((abs(values[n][p]), layers.index(n), p) for n in layers for p in active[n])
    if amount is globally:
        total, gone, left = sum(pruned.values()), set(), {n: len(active[n]) for n in layers}
        for _, layer, position in smallest:
            name = layers[layer]
            if len(gone) < total and left[name] > 1:
                gone.add((name, position))
                left[name] -= 1
    else:
        gone = set()
        for name in layers:
            own = [(layers[layer], p) for _, layer, p in smallest if layers[layer] == name]
            gone |= set(own[: pruned[name]])
    kept = {(n, p) for n in layers for p in active[n]} - gone
    free = [(-abs(gradients[n][p]), layers.index(n), p) for n in layers for p in range(len(values[n]))]
    grown = [(layers[layer], p) for _, layer, p in sorted(free) if (layers[layer], p) not in kept][: len(gone)]
    after = kept | set(grown)
    return {name: sorted(p for n, p in after if n == name) for name in layers}


@pytest.mark.parametrize("amount", [by_rate, globally])
@pytest.mark.parametrize("seed", range(6))
def test_the_largest_of_all_layers_are_grown(amount, seed):
    generator = torch.Generator().manual_seed(seed)
    sizes, active = {"a": 9, "b": 6, "c": 12}, {"a": [0, 3, 4, 8], "b": [1, 2], "c": [0, 1, 2, 5, 7, 11]}
    values = {n: torch.randn(size, generator=generator).tolist() for n, size in sizes.items()}
    gradients = {n: torch.randint(-5, 6, (size,), generator=generator).tolist() for n, size in sizes.items()}  # ties
    model = fed(active, **values)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    updater = regrow.ComposedUpdater(
        model,
        optimizer,
        total_steps=9,
        update_every=None,
        schedule=schedules.prune_rate_schedule("constant", 0.5, 9),
        grow=criteria.inactive_gradient,
        collect="gradient",
        amount=amount,
        growth_scope="global",
    )
    feed(model, optimizer, **{n: [g] for n, g in gradients.items()})
    rows = updater.update()
    assert indices(model) == naive(active, values, gradients, 0.5, amount)
    assert sum(row["grown"] for row in rows) == sum(row["pruned"] for row in rows) > 0


def trained(growth, **settings):
    model = regrow.sparsify(mlp(8, 20, 12, 4), 0.3, storage="compressed", seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = regrow.SparseMomentum(model, optimizer, total_steps=9, update_every=2, growth=growth, **settings)
    for step in range(9):
        optimizer.zero_grad()
        loss_at(model, step).backward()
        optimizer.step()
    return indices(model), [row["active"] for row in updater.history]


def test_factors_and_tensors_grow_the_same():
    assert trained("global-momentum", factored=True) == trained("global-momentum", factored=False)
    assert trained("global-momentum") != trained("momentum")


def test_a_layer_grows_no_denser_than_it_may():
    _, active = trained("global-momentum", max_density=0.35)
    assert max(active[0::3]) <= 56
    assert max(active[1::3]) <= 84
    assert max(active[2::3]) <= 16


def test_an_order_that_cannot_be_compared_is_refused(monkeypatch):
    monkeypatch.setattr("regrow.criteria.LARGEST_TENSOR", 10)
    model = regrow.sparsify(mlp(8, 12, 4), 0.3, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = regrow.ComposedUpdater(
        model,
        optimizer,
        total_steps=9,
        update_every=None,
        schedule=schedules.prune_rate_schedule("constant", 0.5, 9),
        grow=criteria.random,
        growth_scope="global",
    )
    loss_at(model, 0).backward()
    optimizer.step()
    with pytest.raises(ValueError, match=r"growth_scope='global'.*growth_scope='local'"):
        updater.update()
