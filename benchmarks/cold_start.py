"""Distance that weights move at their first step after they are grown, under Adam, in learning rates.

A small network learns to be another one, for some hundred steps, so that bias correction has ended; then RigL or SET
replaces weights once, and one more step is taken. "zero" is the same with second moments of grown weights set to 0
behind the update, as they were before decision 21. "active" is what weights move that were active all the time.

    python benchmarks/cold_start.py --json results/cold_start.json
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

import torch
from torch import nn

import regrow
from regrow.lab.machine import processor

METHODS = {"RigL": regrow.RigL, "SET": regrow.SET}
STORAGES = ("masked", "compressed")
RATE = 1e-3


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))


def train(model, optimizer, teacher, steps):
    for step in steps:
        inputs = torch.randn(64, 32, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), teacher(inputs).detach()).backward()
        optimizer.step()


def dense(weight):
    return torch.zeros(weight.numel).index_copy_(0, weight.indices, weight.values)


def first_moves(method, storage, steps, zero, seed):
    """(moves of weights that entered, moves of the others), in learning rates."""
    model = regrow.sparsify(network(seed), 0.2, storage=storage, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    more = {"seed": seed} if method is regrow.SET else {}
    updater = method(model, optimizer, total_steps=10 * steps, update_every=None, **more)
    updater.expect_update(steps)
    train(model, optimizer, network(seed + 1000), range(steps))
    weights = regrow.sparse_weights(model)
    before = {name: set(weight.indices.tolist()) for name, weight in weights.items()}
    updater.update()
    entered = {n: torch.tensor([p not in before[n] for p in w.indices.tolist()]) for n, w in weights.items()}
    if zero:
        for name, weight in weights.items():
            second = optimizer.state[weight.parameter]["exp_avg_sq"]
            weight.place(second, weight.indices[entered[name]], 0) if storage == "masked" else second.masked_fill_(
                entered[name][:, None], 0
            )
    old = {name: dense(weight) for name, weight in weights.items()}
    train(model, optimizer, network(seed + 1000), [steps])
    moves = {name: ((dense(w) - old[name]).abs() / RATE)[w.indices] for name, w in weights.items()}
    return (
        torch.cat([moves[n][entered[n]] for n in moves]),
        torch.cat([moves[n][~entered[n]] for n in moves]),
    )


def row(name, storage, steps, seeds):
    figures = {}
    for kind in ("zero", "mean"):
        runs = [first_moves(METHODS[name], storage, steps, kind == "zero", seed) for seed in range(seeds)]
        moved = torch.cat([entered for entered, _ in runs])
        moved = moved[moved > 0]  # a weight behind a dead unit has no gradient
        figures[kind] = {"median": float(moved.median()), "largest": float(moved.max()), "weights": moved.numel()}
    others = torch.cat([active for _, active in runs])
    figures["active"] = {"median": float(others.median()), "largest": float(others.max())}
    return {"method": name, "storage": storage, **figures}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row(name, storage, asked.steps, asked.seeds) for name in METHODS for storage in STORAGES]
    for line in rows:
        print(
            f"{line['method']:6}{line['storage']:12}"
            + "".join(
                f"{kind} {line[kind]['median']:6.2f} /{line[kind]['largest']:6.2f}   "
                for kind in ("zero", "mean", "active")
            )
        )
    if asked.json:
        where = {"command": shlex.join(["python", *sys.argv]), "processor": processor(), "torch": torch.__version__}
        settings = {"steps": asked.steps, "seeds": asked.seeds, "learning_rate": RATE}
        asked.json.write_text(json.dumps({**where, **settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
