"""The scale of active weights at first."""

import copy

import pytest
import torch
from torch import nn

import regrow

STORAGES = pytest.mark.parametrize("storage", ["masked", "compressed"])


def values(layer, **settings):
    model = regrow.sparsify(copy.deepcopy(layer), 0.25, seed=0, **settings)
    return regrow.sparse_weights(model)["weight"].values


@STORAGES
@pytest.mark.parametrize("rule", [True, "layer"])
def test_by_layer(storage, rule):
    layer = nn.Linear(40, 30)
    assert torch.equal(2 * values(layer, storage=storage, rescale=False), values(layer, storage=storage, rescale=rule))


@STORAGES
@pytest.mark.parametrize("layer", [nn.Linear(40, 30), nn.Conv2d(6, 8, 3)])
def test_by_neuron_and_by_default(storage, layer):
    """Each row against its own number of inputs, counted one by one."""
    model = regrow.sparsify(copy.deepcopy(layer), 0.25, seed=0, storage=storage)
    weight = regrow.sparse_weights(model)["weight"]
    wanted = torch.zeros(weight.shape).flatten(1)
    for row in range(len(wanted)):
        inputs = [int(position) % wanted.shape[1] for position in weight.indices if position // wanted.shape[1] == row]
        wanted[row, inputs] = (wanted.shape[1] / len(inputs)) ** 0.5
    wanted = wanted.view(weight.shape) * layer.weight.detach()
    torch.testing.assert_close(weight.values, wanted.flatten()[weight.indices])
    assert torch.equal(weight.values, values(layer, storage=storage, rescale="neuron"))


@STORAGES
def test_outputs_keep_the_variance_of_the_dense_layer(storage):
    torch.manual_seed(0)
    layer, x = nn.Linear(2_000, 500), torch.randn(200, 2_000)
    sparse = regrow.sparsify(copy.deepcopy(layer), 0.01, seed=0, storage=storage)
    assert float(sparse(x).std() / layer(x).std()) == pytest.approx(1, abs=0.05)


@STORAGES
@pytest.mark.parametrize("init", ["magnitude", {"weight": torch.rand(30, 40)}, {"weight": torch.rand(30, 40) < 0.25}])
def test_chosen_weights_keep_their_values(storage, init):
    """They may be of a trained network."""
    layer = nn.Linear(40, 30)
    density = 0.25 if isinstance(init, str) or init["weight"].dtype != torch.bool else None
    model = regrow.sparsify(copy.deepcopy(layer), density, init=init, storage=storage)
    weight = regrow.sparse_weights(model)["weight"]
    assert torch.equal(weight.values, layer.weight.detach().flatten()[weight.indices])


def test_layers_without_inactive_weights_keep_theirs():
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 20))
    before = model[1].weight.detach().clone()
    model = regrow.sparsify(
        model,
        None,
        init={"0.weight": torch.rand(30, 40) < 0.1, "1.weight": before.isfinite()},
        rescale="layer",
        storage="masked",
    )
    assert torch.equal(model[1].weight, before)


def test_an_unknown_rule_changes_nothing():
    model = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="rescale='row' is unknown; use 'auto', 'neuron'"):
        regrow.sparsify(model, 0.5, rescale="row")
    assert not regrow.sparse_weights(model)
