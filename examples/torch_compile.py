"""A compiled model. Topology updates do not recompile, because a masked layer computes with its whole parameter."""

import torch
from torch import nn

import regrow

torch.manual_seed(0)
inputs = torch.randn(512, 20)
targets = (inputs[:, :4] + inputs[:, -4:]).argmax(1)

model = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4))
model = regrow.sparsify(model, density=0.2, storage="masked")  # compressed layers have kernels and stay outside graphs
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
updater = regrow.SparseMomentum(model, optimizer, total_steps=80, update_every=10)

compiled = torch.compile(model)
losses, graphs = [], []
for batch in torch.arange(512).repeat(10).split(64):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(compiled(inputs[batch]), targets[batch])
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

assert sum(row["grown"] for row in updater.history) > 0
assert len(set(graphs)) == 1, "nothing is compiled after the first step"
assert losses[-1] < losses[0] / 2
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
print(regrow.summary(model))
