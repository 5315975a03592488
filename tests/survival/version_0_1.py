"""Makes the files of the folder regrow-0.1-states, with the version of regrow whose files they are.

    PYTHONPATH=OLD_CHECKOUT/src python tests/survival/version_0_1.py

Each method trains a small network for five steps; its file holds model, optimizer and updater then, and what the
weights and the active sets are three steps later.
"""

from pathlib import Path

import torch
from torch import nn

import regrow

HERE = Path(__file__).parent / "regrow-0.1-states"
METHODS = {
    "SparseMomentum": {"window": 2},
    "RigL": {},
    "SET": {"seed": 0},
    "DSR": {"seed": 0, "threshold": 0.1},
    "MEST": {"seed": 0},
    "DeepRewiring": {"seed": 0, "l1": 0.1, "noise": 0.1},
    "GMP": {"density": 0.3},
    "GraNet": {"density": 0.3},
    "DNS": {"density": 0.3, "seed": 0},
    "TopKAST": {"density": 0.3},
}
Picture = dict[str, tuple[torch.Tensor, torch.Tensor]]
DENSE = ("GMP", "GraNet", "DNS", "TopKAST")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def batch(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (16,), generator=generator)


def start(method, storage):
    model = regrow.sparsify(network(), 1.0 if method in DENSE else 0.4, storage=storage, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = getattr(regrow, method)(model, optimizer, total_steps=20, update_every=2, **METHODS[method])
    return model, optimizer, updater


def train(parts, steps):
    model, optimizer, _ = parts
    for step in steps:
        x, y = batch(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def cases():
    storages = ("masked", "compressed")
    return [(m, s) for m in METHODS for s in storages if not (m in DENSE and s == "compressed")]


def picture(model):
    return {n: (w.indices.clone(), w.values.clone()) for n, w in regrow.sparse_weights(model).items()}


def main():
    for method, storage in cases():
        parts = start(method, storage)
        train(parts, range(5))
        states = [part.state_dict() for part in parts]
        path = HERE / f"{method}-{storage}-0.1.pt"
        torch.save({"states": states}, path)  # as it is after five steps
        train(parts, range(5, 8))
        kept = torch.load(path, weights_only=False)
        torch.save(kept | {"later": picture(parts[0])}, path)
    model = regrow.sparsify(network().float(), 0.4, storage="compressed", seed=1)
    regrow.save(HERE / "saved-0.1.pt", model)
    regrow.export.save_safetensors(HERE / "saved-0.1.safetensors", model)
    torch.save(picture(model), HERE / "saved-picture-0.1.pt")


if __name__ == "__main__":
    main()
