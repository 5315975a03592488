"""Optimizers that step through all parameters at once, fused or with foreach, as they are."""

import torch
from torch import nn

import regrow

torch.manual_seed(0)
inputs = torch.randn(512, 20)
targets = (inputs[:, :4] + inputs[:, -4:]).argmax(1)


def train(make_optimizer) -> float:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4))
    model = regrow.sparsify(model, density=0.2)
    optimizer = make_optimizer(model.parameters())
    updater = regrow.SparseMomentum(model, optimizer, total_steps=80, update_every=10)
    for batch in torch.arange(512).repeat(10).split(64):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
        loss.backward()
        optimizer.step()
    assert sum(row["grown"] for row in updater.history) > 0
    assert regrow.summary(model).density == round(0.2 * 19456) / 19456
    return loss.item()


for how in ({"fused": True}, {"foreach": True}, {"foreach": False}):
    sgd = train(lambda parameters, how=how: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, **how))
    adamw = train(lambda parameters, how=how: torch.optim.AdamW(parameters, lr=0.003, **how))
    print(f"{how}: SGD {sgd:.3f}, AdamW {adamw:.3f}")
    assert max(sgd, adamw) < 0.6, "four classes by chance: 1.39"
