"""A small GPT (Radford et al. 2019): decoder blocks with norms before their parts, as plain torch modules."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GPT"]


class GPT(nn.Module):
    """Predicts the next token at every place; takes (N, T) int64 with T <= block, gives (N, T, num_classes).

    Args:
        num_classes: tokens in the vocabulary.
        layers: number of blocks.
        heads: attention heads of each block; features % heads == 0.
        features: numbers of each token.
        block: the longest sequence.
        dropout: probability, after both parts of each block and the embeddings.

    Initialised as GPT-2: N(0, 0.02), projections back into the residual stream scaled by 1 / sqrt(2 layers).
    """

    def __init__(
        self,
        num_classes: int,
        layers: int = 4,
        heads: int = 8,
        features: int = 256,
        block: int = 128,
        dropout: float = 0.1,
    ):
        super().__init__()
        if features % heads:
            raise ValueError(f"features={features} must be a multiple of heads={heads}")
        self.tokens = nn.Embedding(num_classes, features)
        self.places = nn.Embedding(block, features)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(_Block(features, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, num_classes, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() > 1:
                into_stream = name.endswith(("attention.out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if into_stream else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.size(1), device=tokens.device)
        x = self.dropout(self.tokens(tokens) + self.places(places))
        return self.head(self.norm(self.blocks(x)))


class _Block(nn.Module):
    def __init__(self, features: int, heads: int, dropout: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(features)
        self.attention = _Attention(features, heads)
        self.norm2 = nn.LayerNorm(features)
        self.up = nn.Linear(features, 4 * features)
        self.down = nn.Linear(4 * features, features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))


class _Attention(nn.Module):
    """Causal self-attention; queries, keys and values are one projection."""

    def __init__(self, features: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(features, 3 * features)
        self.out = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        n, t, features = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, features // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(n, t, features))
