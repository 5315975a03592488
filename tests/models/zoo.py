"""Small networks of every kind that people train, and what each is fed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

os.environ.setdefault("HF_HUB_OFFLINE", "1")
TOKENS, LENGTH, CLASSES = 40, 8, 5


class CausalLSTM(nn.Module):
    """An LSTM language model whose output layer is its embedding, as Press & Wolf 2017 (arXiv:1608.05859) have it."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, 16)
        self.lstm = nn.LSTM(16, 16, num_layers=2, batch_first=True)
        self.output = nn.Linear(16, TOKENS, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.lstm(self.embedding(tokens))[0])


def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=TOKENS,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LENGTH,
    )
    return transformers.BertForMaskedLM(config)


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=TOKENS, n_positions=LENGTH, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def timm_model(name: str, **settings) -> Callable[[], nn.Module]:
    return lambda: pytest.importorskip("timm").create_model(name, num_classes=CLASSES, **settings)


def vision_transformer() -> nn.Module:
    models = pytest.importorskip("torchvision").models
    return models.VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=CLASSES
    )


def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 5, padding=2),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Conv1d(8, 8, 3, dilation=2, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


def conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(3, 6, 3, padding=1),
        nn.BatchNorm3d(6),
        nn.ReLU(),
        nn.ConvTranspose3d(6, 4, 2, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    )


def next_token(model: nn.Module, tokens: Tensor) -> Tensor:
    logits = model(tokens)
    logits = logits if isinstance(logits, Tensor) else logits.logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def classify(model: nn.Module, inputs: Tensor) -> Tensor:
    """The class of an example is its place in the batch, modulo their number."""
    return F.cross_entropy(model(inputs), torch.arange(len(inputs)) % CLASSES)


@dataclass(frozen=True)
class Case:
    """A network and its task.

    Attributes:
        make: builds it, dense; skips the test where a package is missing.
        loss: (model, batch) -> scalar. shape: of an example of random numbers; empty for tokens.
        tied: names of parameters that are one.
    """

    make: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Tensor], Tensor] = classify
    shape: tuple[int, ...] = ()
    tied: tuple[str, ...] = ()

    def batch(self, step: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The batch of a step, four examples."""
        generator = torch.Generator().manual_seed(step)
        if self.shape:
            return torch.randn(4, *self.shape, generator=generator, dtype=dtype)
        return torch.randint(TOKENS, (4, LENGTH), generator=generator)


CASES = {
    "bert": Case(bert, next_token, tied=("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight")),
    "gpt2": Case(gpt2, next_token, tied=("transformer.wte.weight", "lm_head.weight")),
    "lstm": Case(CausalLSTM, next_token, tied=("embedding.weight", "output.weight")),
    "resnet": Case(timm_model("test_resnet"), shape=(3, 32, 32)),
    "convnext": Case(timm_model("test_convnext"), shape=(3, 32, 32)),
    "vit": Case(timm_model("test_vit", img_size=32), shape=(3, 32, 32)),
    "mobilenet": Case(timm_model("mobilenetv2_035"), shape=(3, 64, 64)),
    "torchvision-vit": Case(vision_transformer, shape=(3, 16, 16)),
    "conv1d": Case(conv1d, shape=(3, 20)),
    "conv3d": Case(conv3d, shape=(3, 5, 6, 7)),
}
