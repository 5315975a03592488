"""Updates in which layers take no part: without a gradient, frozen, or of which nothing was collected."""

import pytest
import torch

import regrow
from helpers import assert_same, indices, mlp, picture
from updaters.test_methods import OPTIMIZERS, make, step_of


@pytest.mark.parametrize(
    ("name", "settings"),
    [("rigl", {}), ("mest", {}), ("sparse-momentum", {"window": 1}), ("sparse-momentum-share-gradient", {"window": 1})],
)
@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_a_layer_of_which_nothing_was_collected_keeps_its_weights(name, settings, storage):
    model, optimizer, updater = make(name, storage, update_every=4, **settings)
    for step in range(3):
        step_of(model, optimizer, step)
    before = indices(model)
    optimizer.zero_grad()
    model[0](torch.ones(2, 8, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    rows = {row["name"]: row for row in updater.history}
    assert rows["0.weight"]["step"] == 4
    assert rows["0.weight"]["grown"] > 0
    assert indices(model)["0.weight"] != before["0.weight"]
    assert (rows["2.weight"]["pruned"], rows["2.weight"]["grown"]) == (0, 0)
    assert indices(model)["2.weight"] == before["2.weight"]


@pytest.mark.parametrize("kind", [regrow.GMP, regrow.GraNet, regrow.Han])
@pytest.mark.parametrize("frozen_from", [0, 5, 12])
def test_a_density_that_is_promised_is_reached_where_layers_are_frozen(kind, frozen_from):
    """A layer that is not trained is pruned by magnitude all the same, and nothing grows in it."""
    model = regrow.sparsify(mlp(8, 12, 12, 4, dtype=torch.float64), 1.0, storage="masked")
    optimizer = OPTIMIZERS["momentum"](model)
    end = {} if kind is regrow.Han else {"end": 0.7, "scope": "layer"}
    updater = kind(model, optimizer, total_steps=20, update_every=2, density=0.25, **end)
    for step in range(20):
        if step == frozen_from:
            model[2].weight.requires_grad_(False)
            before = model[2].weight.detach().clone()
        step_of(model, optimizer, step)
    weights = regrow.sparse_weights(model)
    assert regrow.summary(model).active == 72
    if kind is not regrow.Han:  # which prunes the network as a whole
        assert [weight.active for weight in weights.values()] == [24, 36, 12]
    frozen = weights["2.weight"]
    assert torch.equal(frozen.values, before.take(frozen.indices))  # and stays as it was, but for what has gone
    assert not any(row["grown"] for row in updater.history if row["name"] == "2.weight" and row["step"] > frozen_from)


def test_a_soft_bound_is_kept_where_a_layer_is_frozen_above_it():
    model, optimizer, _ = make("mest", update_every=2, total_steps=40)
    bound = {name: weight.active for name, weight in regrow.sparse_weights(model).items()}
    for step in range(2):
        step_of(model, optimizer, step)
    assert regrow.sparse_weights(model)["2.weight"].active > bound["2.weight"]
    model[2].weight.requires_grad_(False)
    for step in range(2, 40):
        step_of(model, optimizer, step)
    assert {name: weight.active for name, weight in regrow.sparse_weights(model).items()} == bound


@pytest.mark.parametrize(
    ("name", "settings"), [("rigl", {}), ("mest", {}), ("sparse-momentum", {"window": 2}), ("granet-sparse", {})]
)
def test_an_update_that_was_not_expected_is_refused_where_nothing_was_collected(name, settings):
    model, optimizer, updater = make(name, update_every=10, total_steps=40, **settings)
    for step in range(3):
        step_of(model, optimizer, step)
    before = picture(model, optimizer, updater)
    with pytest.raises(
        RuntimeError, match=r"at step 3, but nothing.*of 0\.weight, 2\.weight.*expected at step 10.*expect_update"
    ):
        updater.update()
    assert_same(before, picture(model, optimizer, updater))
    updater.expect_update(after=1)
    step_of(model, optimizer, 3)
    assert any(row["grown"] for row in updater.update())
    updater.expect_update(after=9)  # one comes by itself before it
    for step in range(4, 13):
        step_of(model, optimizer, step)
    updater.update()
    assert [row["step"] for row in updater.history] == [4, 4, 10, 10, 13, 13]
    assert any(row["grown"] for row in updater.history[-2:])
