"""Optimizers that do something else with sparse weights are refused when an updater is made, with what helps."""

import pytest
import torch

import regrow
from helpers import assert_same, loss_at, mlp, picture
from optimizers.test_probe import ByNorm, Cautious, Centred, Coded, Strange

SGD = torch.optim.SGD
STEPS = {"total_steps": 100, "update_every": 10}


def sparse(storage, wide=8, dtype=torch.float64):
    return regrow.sparsify(mlp(wide, 12, 4, dtype=dtype), 0.3, storage=storage, seed=0)


def attach(method, model, optimizer):
    return method(model, optimizer) if method is regrow.Static else method(model, optimizer, **STEPS)


every_method = pytest.mark.parametrize(
    "method", [regrow.Static, regrow.RigL, regrow.SparseMomentum, regrow.DeepRewiring], ids=lambda kind: kind.__name__
)
REFUSED = {
    "shapes": (Centred, "compressed", r"Centred reads shapes.*0\.weight is stored compressed.*storage='masked'"),
    "zeros": (Cautious, "masked", r"size of Cautious's steps.*0\.weight is stored masked.*storage='compressed'"),
}


@every_method
@pytest.mark.parametrize("case", REFUSED)
def test_storages_that_change_the_steps_are_refused_by_all_methods(case, method):
    kind, storage, message = REFUSED[case]
    model = sparse(storage)
    optimizer = kind(model.parameters(), lr=0.1, momentum=0.9)
    before = picture(model, optimizer)
    with pytest.raises(ValueError, match=message):
        attach(method, model, optimizer)
    assert_same(before, picture(model, optimizer))


@pytest.mark.parametrize(("kind", "storage"), [(Centred, "masked"), (Cautious, "compressed"), (Strange, "masked")])
def test_the_other_storage_is_accepted(kind, storage):
    model = sparse(storage)
    attach(regrow.RigL, model, kind(model.parameters(), lr=0.1))


def test_names_stand_in_where_nothing_can_be_probed():
    class Shampoo(Strange):
        pass

    model = sparse("compressed")
    with pytest.raises(ValueError, match="Shampoo reads shapes"):
        regrow.Static(model, Shampoo(model.parameters(), lr=0.1))


def trained(make, storage):
    model = sparse(storage)
    optimizer = make(model.parameters())
    attach(regrow.RigL, model, optimizer)
    for step in range(12):
        optimizer.zero_grad()
        loss_at(model, step, dtype=torch.float64).backward()
        optimizer.step()
    return model


def norms(parameters):
    return ByNorm(parameters, lr=0.01, momentum=0.9)


def lamb(parameters):
    return pytest.importorskip("timm.optim").Lamb(parameters, lr=0.01)


def lars(parameters):
    return pytest.importorskip("timm.optim").Lars(parameters, lr=0.1, momentum=0.9)


@pytest.mark.parametrize("make", [norms, lamb, lars])
def test_norms_are_the_same_in_both_storages(make):
    left, right = (regrow.sparse_weights(trained(make, storage)) for storage in ("masked", "compressed"))
    for name, weight in left.items():
        assert torch.equal(weight.indices, right[name].indices)
        torch.testing.assert_close(weight.values, right[name].values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_state_in_codes_is_refused_by_methods_that_move_weights(storage):
    model = sparse(storage)
    optimizer = Coded(model.parameters(), lr=0.1)
    for method in (regrow.RigL, regrow.SparseMomentum, regrow.DeepRewiring):
        with pytest.raises(ValueError, match=r"Coded keeps kept of 0\.weight.*cannot be moved.*regrow\.Static"):
            attach(method, model, optimizer)
    attach(regrow.Static, model, optimizer)


def test_state_in_codes_that_is_there_already_is_refused():
    model = sparse("masked")
    optimizer = SGD(model.parameters(), lr=0.1)
    weight = regrow.sparse_weights(model)["2.weight"].parameter
    optimizer.state[weight]["codes"] = torch.zeros_like(weight, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"codes of 2\.weight"):
        attach(regrow.SET, model, optimizer)
