"""Scenarios with VGG16-like at a quarter of its width, each run by both ranks; `test_vgg16_like` has the outcomes."""

import torch
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import regrow
from distributed.data_parallel import assert_same_on_ranks, batch, compare, momentum, sgd
from regrow.lab import models


def build():
    return models.build("vgg16-like", width=0.25).double()


def ten_updates_are_those_of_one_process(rank, folder):
    """With batch norm in eval mode, and nothing dropped out."""
    for storage in ("masked", "compressed"):
        compare(lambda: build().eval(), rank, storage, data={"shape": (3, 32, 32), "classes": 10, "size": 4})


def parameters_are_the_same_whatever_batch_norm_saw(rank, folder):
    """Ranks have the same parameters, though each has normalised its own half."""
    torch.manual_seed(rank)
    model = regrow.sparsify(build(), 0.2, storage="compressed", seed=rank)
    network, optimizer = DistributedDataParallel(model), sgd(model)
    updater = momentum(network, optimizer)
    for step in range(3):
        x, y = batch(step, (3, 32, 32), 10, rank)
        optimizer.zero_grad()
        cross_entropy(network(x), y).backward()
        optimizer.step()
    assert len({row["step"] for row in updater.history}) == 3
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
    assert_same_on_ranks(model)


SCENARIOS = [ten_updates_are_those_of_one_process, parameters_are_the_same_whatever_batch_norm_saw]
