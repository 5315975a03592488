"""Accelerate: prepare as ever, and register the updater, so that checkpoints carry it.

pip install accelerate
"""

import tempfile

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import regrow
from regrow.updaters import GatheredState

torch.manual_seed(0)
inputs = torch.randn(512, 20)
loader = DataLoader(TensorDataset(inputs, (inputs[:, :4] + inputs[:, -4:]).argmax(1)), batch_size=64)

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4))
model = regrow.sparsify(model, density=0.2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
updater = regrow.SparseMomentum(model, optimizer, total_steps=80, update_every=10)
accelerator.register_for_checkpointing(GatheredState(updater))  # of every process


def train(epochs: int) -> torch.Tensor:
    for _ in range(epochs):
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(x), y)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
    return loss


with tempfile.TemporaryDirectory() as folder:
    train(epochs=14)
    accelerator.save_state(folder)
    once = train(epochs=6)
    accelerator.load_state(folder)
    again = train(epochs=6)

assert updater.step == 80
assert torch.equal(once, again), "a resumed training goes on to the same bits"
assert again < 0.6, "four classes by chance: 1.39"
print(f"loss {again.item():.2f} after {updater.step} steps")
print(regrow.summary(model))
