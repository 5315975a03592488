"""Learning-rate schedules, stepped as ever; this one turns the momentum of SGD, too."""

import torch
from torch import nn

import regrow

torch.manual_seed(0)
inputs = torch.randn(512, 20)
targets = (inputs[:, :4] + inputs[:, -4:]).argmax(1)

model = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4))
model = regrow.sparsify(model, density=0.2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
updater = regrow.SparseMomentum(model, optimizer, total_steps=80, update_every=10)

scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=80)
losses = []
for batch in torch.arange(512).repeat(10).split(64):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
    loss.backward()
    optimizer.step()
    last_lr = scheduler.get_last_lr()[0]
    scheduler.step()
    losses.append(loss.item())

rates = sorted({row["prune_rate"] for row in updater.history}, reverse=True)
assert last_lr < 1e-4
assert len(rates) == 7
assert losses[-1] < losses[0] / 2
assert regrow.summary(model).active == round(0.2 * 19456)
print("prune rates:", ", ".join(f"{rate:.2f}" for rate in rates), f"; loss {losses[0]:.2f} -> {losses[-1]:.2f}")
