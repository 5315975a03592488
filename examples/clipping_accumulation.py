"""Gradient clipping and accumulation. Four micro-batches give the topology of one batch that is four times as large."""

import torch
from torch import nn

import regrow

torch.manual_seed(0)
inputs = torch.randn(512, 20, dtype=torch.float64)
targets = (inputs[:, :4] + inputs[:, -4:]).argmax(1)


def train(micro_batches: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4)).double()
    model = regrow.sparsify(model, density=0.2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    regrow.SparseMomentum(model, optimizer, total_steps=80, update_every=10)
    for batch in torch.arange(512).repeat(10).split(64):
        optimizer.zero_grad()
        for part in batch.chunk(micro_batches):
            loss = nn.functional.cross_entropy(model(inputs[part]), targets[part])
            (loss / micro_batches).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)  # the norm of the sparse network's gradient
        optimizer.step()
    assert loss < 0.6, "four classes by chance: 1.39"
    return model


whole, accumulated = (regrow.sparse_weights(train(micro_batches)) for micro_batches in (1, 4))
for name, weight in whole.items():
    assert torch.equal(weight.indices, accumulated[name].indices)
    torch.testing.assert_close(weight.values, accumulated[name].values)
    print(f"{name}: {weight.active} active weights, the same in both trainings")
