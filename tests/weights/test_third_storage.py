"""A storage is one file and one registration: this one keeps the values of Linear layers in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import regrow
from helpers import assert_same, indices
from regrow.weights.masked_storage import MaskedStorage
from regrow.weights.storage import STORAGES, register
from updaters import test_methods as conformance

NAME = "masked-float64"


class Float64Linear(nn.Linear):
    """Computes in the dtype of its input, with weights in float64."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return nn.functional.linear(input, self.weight.to(input.dtype), bias)


class Float64Storage(MaskedStorage):
    name = NAME
    densest_by_itself = 0.0

    def refuses(self, module, parameter, elsewhere):
        return None if type(module) is nn.Linear else f"{type(module).__name__} is no Linear"

    def attach(self, model, module, attribute, indices, why):
        module.__class__ = Float64Linear
        module.weight.data = module.weight.data.double()
        return super().attach(model, module, attribute, indices, why)

    def densify(self, model, weight):
        super().densify(model, weight)
        weight.module.__class__ = nn.Linear
        return model

    def attributes(self, module):
        return super().attributes(module) if isinstance(module, Float64Linear) else ()

    def weight(self, name, module, attribute):
        weight = super().weight(name, module, attribute)
        weight.storage = NAME
        return weight


@pytest.fixture(autouse=True)
def _registered():
    register(Float64Storage())
    yield
    del STORAGES[NAME]


METHODS = [name for name, method in conformance.METHODS.items() if not name.startswith("sparse-momentum-")]


@pytest.mark.parametrize("name", METHODS)
def test_methods_train_it_as_any_other(name):
    ours, theirs = (conformance.run(name, storage=storage) for storage in (NAME, "masked"))
    assert {weight.storage for weight in regrow.sparse_weights(ours[0]).values()} == {NAME}
    assert_same(ours[0].state_dict(), theirs[0].state_dict())
    assert ours[2].history == theirs[2].history
    if not conformance.METHODS[name].hidden:
        conformance.test_grown_weights_start_at_0_without_momentum(name, NAME)


@pytest.mark.parametrize("name", ["sparse-momentum", "rigl", "gmp", "dns", "deep-rewiring"])
def test_runs_resume(name):
    conformance.test_a_resumed_run_is_the_run_that_went_on(name, NAME, 9, False)


def test_values_are_finer_than_the_network():
    model = regrow.sparsify(nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4)), 0.25, storage=NAME, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    updater = regrow.SET(model, optimizer, total_steps=9, update_every=3, seed=0)
    before = regrow.sparse_weights(model)["0.weight"].values
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    after = regrow.sparse_weights(model)["0.weight"].values
    assert after.dtype == torch.float64
    assert not torch.equal(before, after)
    assert torch.equal(before.float(), after.float()), "a step this small is lost in float32"
    assert updater.step == 1


def test_files_summaries_and_dense_copies_know_it(tmp_path):
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4))

    model = regrow.sparsify(network(), 0.25, storage=NAME, seed=1)
    assert {row.storage for row in regrow.summary(model).rows} == {NAME}
    assert "Conv2d is no Linear" in str(regrow.summary(regrow.sparsify(nn.Conv2d(3, 3, 3), 0.5, storage=NAME)))
    regrow.save(tmp_path / "model.pt", model)
    for storage in (NAME, "masked", "compressed"):
        assert indices(regrow.load(tmp_path / "model.pt", network(), storage=storage)) == indices(model)
    regrow.export.save_safetensors(tmp_path / "model.safetensors", model)
    again = regrow.load(tmp_path / "model.safetensors", network(), storage=NAME)
    assert_same(again.state_dict(), model.state_dict())
    assert type(regrow.densify(model)[0]) is nn.Linear


def test_unknown_storages_are_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"'auto', 'masked', 'compressed' or 'masked-float64'"):
        regrow.sparsify(nn.Linear(8, 8), 0.5, storage="sparse")
