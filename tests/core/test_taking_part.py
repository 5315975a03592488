"""Updates in which layers take no part: without a gradient, frozen, or of which nothing was collected."""

import pytest
import torch

import regrow
from core.helpers import assert_same, indices, mlp, picture
from core.test_methods import OPTIMIZERS, make, step_of


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


@pytest.mark.parametrize("kind", [regrow.GMP, regrow.GraNet])
@pytest.mark.parametrize("scope", ["layer", "network"])
def test_densities_are_those_of_the_network_where_layers_are_frozen(kind, scope):
    """The frozen layer keeps its weights, and the others go on as if it were there."""
    model = regrow.sparsify(mlp(8, 12, 12, 4, dtype=torch.float64), 1.0, storage="masked")
    optimizer = OPTIMIZERS["momentum"](model)
    kind(model, optimizer, total_steps=40, update_every=2, density=0.25, scope=scope, end=0.25)
    for step in range(12):
        step_of(model, optimizer, step)
    reached = {name: weight.active for name, weight in regrow.sparse_weights(model).items()}
    assert sum(reached.values()) == round(0.25 * 288)
    model[2].weight.requires_grad_(False)
    for step in range(12, 20):
        step_of(model, optimizer, step)
    after = {name: weight.active for name, weight in regrow.sparse_weights(model).items()}
    assert after["2.weight"] == reached["2.weight"]
    assert sum(after.values()) == round(0.25 * 288)


@pytest.mark.parametrize("kind", [regrow.GMP, regrow.GraNet])
def test_layers_do_not_make_up_for_a_dense_one_that_takes_no_part(kind):
    model = regrow.sparsify(mlp(8, 40, 4, dtype=torch.float64), 1.0, storage="masked")
    optimizer = OPTIMIZERS["momentum"](model)
    kind(model, optimizer, total_steps=40, update_every=2, density=0.25, scope="network", end=0.25)
    model[0].weight.requires_grad_(False)
    for step in range(20):
        step_of(model, optimizer, step)
    assert [weight.active for weight in regrow.sparse_weights(model).values()] == [320, 40]


def test_a_density_that_the_network_bears_is_borne_where_only_a_small_layer_takes_part():
    model = regrow.sparsify(mlp(2, 3, 200, dtype=torch.float64), 1.0, storage="masked")
    optimizer = OPTIMIZERS["momentum"](model)
    regrow.GMP(model, optimizer, total_steps=20, update_every=2, density=0.01, end=0.5)
    model[2].weight.requires_grad_(False)
    for _ in range(20):
        optimizer.zero_grad()
        model(torch.ones(2, 2, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
    assert [weight.active for weight in regrow.sparse_weights(model).values()] == [1, 600]


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
