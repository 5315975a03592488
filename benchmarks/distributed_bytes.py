"""Bytes that each of two ranks hands to all-reduce: in a training step, and in a topology update.

Counted as the calls are made, those of DistributedDataParallel's reducer included (through a communication hook). What
travels does not depend on how many ranks there are. Writes results/distributed.json.

    python benchmarks/distributed_bytes.py
    python benchmarks/distributed_bytes.py --networks lenet-5-caffe --densities 0.05 --json /tmp/try.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import regrow
from regrow.io.atomic import write_atomically
from regrow.lab import models

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {"lenet-300-100": (1, 28, 28), "lenet-5-caffe": (1, 28, 28)}
"""Shapes of an example; the other networks take (3, 32, 32)."""


@contextmanager
def counted() -> Iterator[list[int]]:
    """The bytes of each all-reduce, as they are called."""
    sent: list[int] = []
    all_reduce = dist.all_reduce

    def count(tensor: torch.Tensor, *rest: Any, **more: Any) -> Any:
        sent.append(tensor.nbytes)
        return all_reduce(tensor, *rest, **more)

    with patch("torch.distributed.all_reduce", count):
        yield sent


def measure(network: str, storage: str, density: float) -> dict[str, object]:
    """Measures one network: two steps, with an update after the second."""
    torch.manual_seed(0)
    model = models.build(network)
    if storage != "dense":
        model = regrow.sparsify(model, density, storage=storage, seed=0)
    wrapper = DistributedDataParallel(model)
    wrapper.register_comm_hook(None, allreduce_hook)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    if storage != "dense":
        regrow.SparseMomentum(wrapper, optimizer, total_steps=3, update_every=2, window=1)
    inputs, targets = torch.randn(2, *SHAPES.get(network, (3, 32, 32))), torch.tensor([0, 1])
    with counted() as sent:
        for _ in range(2):
            optimizer.zero_grad()
            sent.clear()
            cross_entropy(wrapper(inputs), targets).backward()
            step = sum(sent)
            sent.clear()
            optimizer.step()
        update = sum(sent)
    return {"network": network, "storage": storage, "density": density, "step_bytes": step, "update_bytes": update}


def on_rank(rank: int, rendezvous: str, cases: list[tuple[str, str, float]], results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    for case in cases:
        row = measure(*case)
        if rank == 0:
            results.put(row)
    dist.destroy_process_group()


def sizes(network: str) -> dict[str, int]:
    """Bytes of the weights that can be sparse, and of all other parameters."""
    traffic = regrow.distributed.gradient_bytes(regrow.sparsify(models.build(network), 1.0, storage="masked"))
    return {"weight_bytes": traffic.sparse, "other_bytes": traffic.other}


def main() -> None:
    description, _, usage = (__doc__ or "").partition("\n\n    ")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default="lenet-5-caffe,vgg16-like", help="names of regrow.lab.models")
    parser.add_argument("--densities", default="0.05,0.1")
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "distributed.json")
    chosen = parser.parse_args()
    densities = [float(word) for word in chosen.densities.split(",")]
    networks = chosen.networks.split(",")
    cases = [
        case
        for network in networks
        for case in [
            (network, "dense", 1.0),
            (network, "masked", densities[0]),
            *((network, "compressed", density) for density in densities),
        ]
    ]
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        results = context.Queue()
        arguments = f"file://{folder}/rendezvous", cases, results
        ranks = [context.Process(target=on_rank, args=(rank, *arguments), daemon=True) for rank in range(2)]
        for rank in ranks:
            rank.start()
        rows = []
        for _ in cases:
            row = results.get(timeout=600)
            row |= sizes(row["network"])
            row["weight_share"] = (row["step_bytes"] - row["other_bytes"]) / row["weight_bytes"]
            print(f"{row['network']}, {row['storage']}, {row['density']:.0%}: {row['weight_share']:.2%}", flush=True)
            rows.append(row)
        for rank in ranks:
            rank.join()
    command = f"python benchmarks/distributed_bytes.py --networks {chosen.networks} --densities {chosen.densities}"
    with write_atomically(chosen.json) as temporary:
        content = {"command": command, "torch": torch.__version__, "rows": rows}
        temporary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
