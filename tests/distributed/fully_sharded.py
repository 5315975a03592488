"""Scenarios of FSDP2 with masked storage, each run by both ranks; `test_fully_sharded` asks what became of them."""

import re
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy

import regrow
from distributed.data_parallel import adam, alone, batch, momentum, sgd, small, train
from helpers import mlp
from regrow.updaters import ShardedState


def sharded(seed=0):
    """Layers of 13, 3 and 4 rows, which two ranks cannot share evenly."""
    model = regrow.sparsify(mlp(8, 13, 3, 4, dtype=torch.float64), 0.3, storage="masked", seed=seed)
    mesh = init_device_mesh("cpu", (2,))
    for layer in model:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def topology(model):
    return {name: weight.indices for name, weight in regrow.sparse_weights(model).items()}


def assert_close(model, single):
    for (name, ours), theirs in zip(topology(model).items(), topology(single).values(), strict=True):
        assert torch.equal(ours, theirs), name
    for (name, ours), theirs in zip(model.named_parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(ours.full_tensor(), theirs, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def three_updates_are_those_of_one_process(rank, folder):
    for optimize, window in ((sgd, "all"), (sgd, 2), (adam, "all"), (adam, 2)):
        how = {"update_every": 3, "window": window}
        model = sharded()
        optimizer = optimize(model)
        updater = momentum(model, optimizer, **how)
        train(model, optimizer, rank, steps=11, clip=0.3)
        assert {row["step"] for row in updater.history} == {3, 6, 9}
        assert any(row["grown"] for row in updater.history)
        with alone():
            single = regrow.sparsify(mlp(8, 13, 3, 4, dtype=torch.float64), 0.3, storage="masked", seed=0)
            trained = optimize(single)
            momentum(single, trained, **how)
            train(single, trained, None, steps=11, clip=0.3)
        assert_close(model, single)
        mask = model[0].weight_mask.to_local()
        assert mask.shape == ((7, 8), (6, 8))[rank]
        assert not model[0].weight.to_local()[~mask].any()


def go_on(model, optimizer, rank, steps):
    for step in steps:
        x, y = batch(step, (8,), 4, rank)
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()


def a_checkpoint_goes_on_to_the_same_bits(rank, folder):
    def fresh(seed):
        model = sharded(seed)
        optimizer = sgd(model)
        return model, optimizer, momentum(model, optimizer, update_every=3, window=2)

    def state(model, optimizer, updater):
        weights, moments = get_state_dict(model, optimizer)
        return {"model": weights, "optimizer": moments, "updater": ShardedState(updater)}

    model, optimizer, updater = fresh(0)
    go_on(model, optimizer, rank, range(5))  # in the middle of a window
    checkpoint.save(state(model, optimizer, updater), checkpoint_id=folder / "checkpoint")
    go_on(model, optimizer, rank, range(5, 11))

    again, optimizer, updater = fresh(1)
    go_on(again, optimizer, rank, range(20, 24))  # another state, with another topology
    stored = state(again, optimizer, updater)
    checkpoint.load(stored, checkpoint_id=folder / "checkpoint")
    set_state_dict(again, optimizer, model_state_dict=stored["model"], optim_state_dict=stored["optimizer"])
    go_on(again, optimizer, rank, range(5, 11))
    for ours, theirs in zip(again.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(ours.full_tensor(), theirs.full_tensor())


def the_model_of_the_page_trains(rank, folder):
    page = Path(__file__).parents[2] / "docs" / "distributed.md"
    _, block = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    torch.manual_seed(0)
    names = {"torch": torch, "regrow": regrow, "fully_shard": fully_shard, "model": mlp(8, 12, 4, dtype=torch.float64)}
    exec(block.replace("70_000", "6").replace("703", "2"), names)
    go_on(names["model"], names["optimizer"], rank, range(6))
    assert {row["step"] for row in names["updater"].history} == {2, 4}


def compressed_weights_are_refused(rank, folder):
    model = fully_shard(regrow.sparsify(small(), 0.2, storage="compressed", seed=0), mesh=init_device_mesh("cpu", (2,)))
    with pytest.raises(ValueError, match=r"cannot be sharded.*masked"):
        momentum(model, sgd(model))


SCENARIOS = [
    three_updates_are_those_of_one_process,
    a_checkpoint_goes_on_to_the_same_bits,
    the_model_of_the_page_trains,
    compressed_weights_are_refused,
]
