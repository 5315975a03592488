"""Mixed precision with GradScaler. Steps that the scaler skips are not counted, and no topology changes in them."""

import torch
from torch import nn

import regrow

torch.manual_seed(0)
inputs = torch.randn(512, 20)
targets = (inputs[:, :4] + inputs[:, -4:]).argmax(1)

model = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4))
model = regrow.sparsify(model, density=0.2, dense=["4"])
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
updater = regrow.SparseMomentum(model, optimizer, total_steps=80, update_every=10)

scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)  # too large, so that the first steps are skipped
skipped, losses = 0, []
for batch in torch.arange(512).repeat(10).split(64):
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.float16):
        loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
    scale = scaler.get_scale()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    skipped += scaler.get_scale() < scale
    losses.append(loss.item())

assert skipped > 0
assert updater.step == 80 - skipped
assert losses[-1] < losses[0] / 2
assert regrow.summary(model).active == round(0.2 * (20 * 128 + 128 * 128))
print(f"{skipped} steps skipped, {updater.step} taken; loss {losses[0]:.2f} -> {losses[-1]:.2f}")
print(regrow.summary(model))
