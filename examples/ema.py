"""An exponential moving average of the weights, which follows the topology and is as sparse as the model."""

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

import regrow
from regrow.integrations.averaging import AveragedModel

torch.manual_seed(0)
inputs = torch.randn(512, 20)
targets = (inputs[:, :4] + inputs[:, -4:]).argmax(1)

model = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4))
model = regrow.sparsify(model, density=0.2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
updater = regrow.SparseMomentum(model, optimizer, total_steps=80, update_every=10)

ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))  # torch's own raises once a layer changes length
for batch in torch.arange(512).repeat(10).split(64):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
    optimizer.step()
    ema.update_parameters(model)

for name, weight in regrow.sparse_weights(ema.module).items():
    assert torch.equal(weight.indices, regrow.sparse_weights(model)[name].indices)
assert sum(row["grown"] for row in updater.history) > 0
with torch.no_grad():
    loss = nn.functional.cross_entropy(ema(inputs), targets)
assert loss < 0.6, "four classes by chance: 1.39"
print(f"loss of the average: {loss:.2f}")
print(regrow.summary(ema.module))
