"""Optimizers of torch and of other libraries, by the names that docs/works-with.md has, and a short training."""

import importlib

import pytest
import torch
from torch.nn.functional import cross_entropy

import regrow
from helpers import mlp

STEPS, EVERY = 12, 3


def make(name, parameters):
    """Such as `torch.optim.SGD(momentum=0.9)`, `timm cadamw`, `schedulefree AdamWScheduleFree`."""
    library, _, rest = name.partition(" ")
    if library.startswith("torch.optim."):
        kind, _, settings = library.removeprefix("torch.optim.").partition("(")
        more = {"lr": 0.1} if kind == "LBFGS" else {} if kind == "Adadelta" else {"lr": 1e-3}
        return getattr(torch.optim, kind)(parameters, **more, **eval(f"dict({settings.removesuffix(')')})"))
    package = pytest.importorskip({"torchao": "torchao.optim", "timm": "timm.optim"}.get(library, library))
    if library == "timm":
        return package.create_optimizer_v2(parameters, opt=rest, lr=1e-3, momentum=0.9, weight_decay=0.0)
    if library == "pytorch_optimizer":
        return package.load_optimizer(rest)(parameters, lr=1e-3)
    optimizer = getattr(importlib.import_module(package.__name__), rest)(parameters, lr=1e-3)
    if library == "schedulefree":
        optimizer.train()
    return optimizer


def train(name, method, storage):
    """A short training with four updates; the dense weights at its end."""
    torch.manual_seed(0)
    model = regrow.sparsify(mlp(64, 64, 64, dtype=torch.float64, bias=False), 0.25, seed=0, storage=storage)
    optimizer = make(name, list(model.parameters()))
    exact = {"window": "all"} if method == "SparseMomentum" else {}  # for both storages to agree to rounding
    updater = getattr(regrow, method)(model, optimizer, total_steps=100, update_every=EVERY, **exact)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 64, dtype=torch.float64, generator=generator), torch.arange(32)

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    losses = [float(closure().detach())]
    for _ in range(STEPS):
        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    losses.append(float(closure().detach()))
    assert len({row["step"] for row in updater.history if row["grown"]}) == STEPS // EVERY
    assert losses[1] < 1.2 * losses[0], losses
    assert regrow.check(model) == []
    return [p.detach() for p in regrow.densify(model).parameters()]
