"""The average follows the topology, and is that of the dense weights."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import swa_utils

import regrow
from helpers import loss_at
from regrow.integrations.averaging import AveragedModel

DECAY = 0.75


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4))


def tied():
    torch.manual_seed(0)
    first, again = nn.Linear(8, 12), nn.Linear(8, 12)
    again.weight = first.weight
    return nn.Sequential(first, nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 8), again, nn.Linear(12, 4))


def train(storage, average, steps=6, make=network):
    """SGD with a topology update after every second step; yields the model after each."""
    model = regrow.sparsify(make(), 0.3, storage=storage, seed=0)
    averaged = average(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    regrow.SparseMomentum(model, optimizer, total_steps=10, update_every=2)
    for step in range(steps):
        optimizer.zero_grad()
        loss_at(model, step).backward()
        optimizer.step()
        averaged.update_parameters(model)
        yield model, averaged


def dense_values(weight):
    return torch.zeros(weight.numel).index_copy_(0, weight.indices, weight.values)


AVERAGES = {
    "ema": {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(DECAY)},
    "one by one": {"avg_fn": swa_utils.get_ema_avg_fn(DECAY)},
    "equal shares": {},
}


@pytest.mark.parametrize("make", [network, tied])
@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("average", AVERAGES)
def test_the_average_is_that_of_the_dense_weights_at_the_active_positions(make, storage, use_buffers, average):
    expected, topologies = {}, set()
    settings = AVERAGES[average] | {"use_buffers": use_buffers}
    for step, (model, averaged) in enumerate(train(storage, lambda model: AveragedModel(model, **settings), make=make)):
        share = 1 / (step + 1) if average == "equal shares" or step == 0 else 1 - DECAY
        weights = regrow.sparse_weights(model)
        for name, mine in regrow.sparse_weights(averaged.module).items():
            now = dense_values(weights[name])
            active = torch.zeros(mine.numel, dtype=torch.bool).index_fill_(0, weights[name].indices, True)
            before = expected.get(name, now).where(active, torch.zeros(()))
            expected[name] = before + share * (now - before)
            assert torch.equal(mine.indices, weights[name].indices)
            torch.testing.assert_close(dense_values(mine), expected[name])
            topologies.add((name, tuple(mine.indices.tolist())))
    assert len(topologies) >= 3 * len(weights), "too few active sets"
    assert averaged.module[1].num_batches_tracked == model[1].num_batches_tracked == step + 1
    assert torch.equal(averaged.module[1].running_mean, model[1].running_mean) is not use_buffers


def test_torchs_own_raises_when_a_parameter_changes_length():
    with pytest.raises(RuntimeError, match="must match the size"):
        list(train("compressed", swa_utils.AveragedModel))


def test_an_average_goes_on_from_its_state():
    *_, (model, averaged) = train("compressed", AveragedModel)
    again = AveragedModel(regrow.sparsify(network(), 0.3, storage="compressed", seed=1))
    again.load_state_dict(copy.deepcopy(averaged.state_dict()))
    with torch.no_grad():
        regrow.sparse_weights(model)["0.weight"].parameter.add_(1)
    for average in (averaged, again):
        average.update_parameters(model)
    for mine, other in zip(averaged.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(mine, other)


def test_what_layers_measured_goes_along():
    model = regrow.sparsify(network(), 0.3, storage="compressed", seed=0)
    averaged = AveragedModel(model)
    model[0].tuned = torch.tensor([[16, 1, 1, 0, 50]])
    averaged.update_parameters(model)
    assert torch.equal(averaged.module[0].tuned, model[0].tuned)
    assert averaged.module[0].tuned is not model[0].tuned


def test_another_model_is_refused():
    averaged = AveragedModel(regrow.sparsify(network(), 0.3))
    before = copy.deepcopy(averaged.state_dict())
    with pytest.raises(ValueError, match=r"0\.weight.* sparse in only one"):
        averaged.update_parameters(regrow.sparsify(network(), 0.3, dense=["0"]))
    assert all(torch.equal(value, averaged.state_dict()[name]) for name, value in before.items())


def test_an_average_beside_a_copy_of_an_earlier_topology_is_right():
    """The best model so far is often kept; it has nothing to do with the average."""
    model = regrow.sparsify(torch.nn.Linear(20, 10), 0.3, storage="compressed", seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    regrow.RigL(model, optimizer, total_steps=40, update_every=3)
    mean, kept, x = (
        AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9)),
        copy.deepcopy(model),
        torch.ones(2, 20),
    )
    for step in range(12):
        optimizer.zero_grad()
        (model(x + step) - 1).square().sum().backward()
        optimizer.step()
        mean.update_parameters(model)
        torch.testing.assert_close(mean(x), regrow.densify(mean.module)(x))
    assert kept.digest.tolist() != model.digest.tolist()
    assert kept.active == model.active
