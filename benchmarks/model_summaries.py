"""Layers that regrow.sparsify makes sparse in networks of other libraries, by kind of layer and storage.

The networks are built from small configurations; nothing is downloaded. Writes results/model_summaries.json.

    python benchmarks/model_summaries.py
    python benchmarks/model_summaries.py --density 0.4 --json /tmp/try.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
import transformers
from torch import nn

import regrow
from regrow.io.atomic import write_atomically

ROOT = Path(__file__).resolve().parents[1]


class TiedLSTM(nn.Module):
    """The layers of a language model whose output layer is its embedding."""

    def __init__(self, tokens: int = 10_000, width: int = 200):
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.lstm = nn.LSTM(width, width, num_layers=2)
        self.output = nn.Linear(width, tokens, bias=False)
        self.output.weight = self.embedding.weight


def bert() -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    return transformers.BertForMaskedLM(config)


def vision_transformer() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=224, patch_size=16, num_layers=4, num_heads=4, hidden_dim=192, mlp_dim=768
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "transformers BertForMaskedLM": bert,
    "transformers GPT2LMHeadModel": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=256, n_layer=4, n_head=4)
    ),
    "timm resnet18": lambda: timm.create_model("resnet18"),
    "timm convnext_atto": lambda: timm.create_model("convnext_atto"),
    "timm vit_tiny_patch16_224": lambda: timm.create_model("vit_tiny_patch16_224"),
    "timm mobilenetv3_small_100": lambda: timm.create_model("mobilenetv3_small_100"),
    "torchvision VisionTransformer": vision_transformer,
    "LSTM, tied embedding": TiedLSTM,
    "1-D convolutions": lambda: nn.Sequential(nn.Conv1d(1, 64, 9), nn.ReLU(), nn.Conv1d(64, 64, 9)),
    "3-D convolutions": lambda: nn.Sequential(nn.Conv3d(1, 32, 3), nn.ReLU(), nn.Conv3d(32, 32, 3)),
}


def summarise(make: Callable[[], nn.Module], density: float) -> dict[str, Any]:
    """The sparse weights of a network in groups of one kind, storage and reason."""
    dense = make()
    kinds = {name: type(module).__name__ for name, module in dense.named_modules()}
    summary = regrow.summary(regrow.sparsify(dense, density, seed=0))
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in summary.rows:
        key = (kinds[row.name.rpartition(".")[0]], row.storage, row.why)
        group = groups.setdefault(key, {"first": row.name, "weights": 0, "positions": 0, "active": 0})
        group["weights"] += 1
        group["positions"] += row.numel
        group["active"] += row.active
    rows = [dict(zip(("kind", "storage", "why"), key, strict=True)) | group for key, group in groups.items()]
    return {"rows": rows, "dense": summary.parameters - summary.numel}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, default=0.1, help="density of the whole network, in (0, 1]")
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "model_summaries.json")
    chosen = parser.parse_args()
    result: dict[str, Any] = {
        "command": f"python benchmarks/model_summaries.py --density {chosen.density:g}",
        "versions": {module.__name__: module.__version__ for module in (torch, torchvision, transformers, timm)},
        "models": {},
    }
    for number, (name, make) in enumerate(MODELS.items(), 1):
        print(f"{number}/{len(MODELS)} {name}", flush=True)
        result["models"][name] = summarise(make, chosen.density)
    with write_atomically(chosen.json) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
