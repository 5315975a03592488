"""FLOPs of one weight of each layer, measured on a real forward pass.

Each use of a weight counts 2 FLOPs (a multiplication and an addition), for one example, in the forward pass. Border
effects of padding are ignored. Embeddings are looked up, not multiplied, so they count 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .nn import SparseConv2d
from .weights import sparse_weights

__all__ = ["FlopsMeter", "flop_density", "flops_per_weight", "step_flops"]


def _convolution(module: Any, inputs: list[Tensor], outputs: list[Tensor]) -> float:
    return outputs[0].numel() / module.out_channels


def _transposed(module: Any, inputs: list[Tensor], outputs: list[Tensor]) -> float:
    return inputs[0].numel() / module.in_channels


def _embedding(module: Any, inputs: list[Tensor], outputs: list[Tensor]) -> float:
    return 0.0


def _recurrent(module: Any, inputs: list[Tensor], outputs: list[Tensor]) -> float:
    return inputs[0].numel() / module.input_size


def _attention(module: Any, inputs: list[Tensor], outputs: list[Tensor], attribute: str) -> float:
    """Projections of query, key and value, apart or (the mean of the three) as one, and of the output."""
    if attribute == "out_proj.weight":
        return _matrix(module, inputs, outputs)
    vectors = dict(zip(("q", "k", "v"), (tensor.numel() / tensor.shape[-1] for tensor in inputs), strict=False))
    return vectors.get(attribute[0], sum(vectors.values()) / len(vectors))


def _matrix(module: Any, inputs: list[Tensor], outputs: list[Tensor]) -> float:
    """Linear, Hugging Face's Conv1D and the like: once for each vector that comes out."""
    vectors = [output for output in outputs if output.dim() > 0]
    return vectors[0].numel() / vectors[0].shape[-1] if vectors else 1.0


_USES: list[tuple[tuple[type, ...], Callable[[Any, list[Tensor], list[Tensor]], float]]] = [
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed),
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d, SparseConv2d), _convolution),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    ((nn.RNNBase,), _recurrent),
]


def _uses(module: nn.Module, attribute: str, inputs: list[Tensor], outputs: list[Tensor]) -> float:
    if isinstance(module, nn.MultiheadAttention):
        return _attention(module, inputs, outputs, attribute)
    for kinds, count in _USES:
        if isinstance(module, kinds):
            return count(module, inputs, outputs)
    return _matrix(module, inputs, outputs)


def _tensors(*values: Any) -> list[Tensor]:
    """The tensors of a call, in order, from whatever they are packed in; the steps of a PackedSequence as one."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, nn.utils.rnn.PackedSequence):
            found.append(value.data)
        elif isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, Mapping):
            found += _tensors(*value.values())
        elif isinstance(value, list | tuple):
            found += _tensors(*value)
    return found


def _own_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters that a module uses by itself; attention calls its out_proj as a function, not as a module."""
    yield from module.named_parameters(recurse=False)
    if isinstance(module, nn.MultiheadAttention):
        yield "out_proj.weight", module.out_proj.weight


def _recomputing() -> bool:
    """Returns whether a backward pass is under way: checkpointing runs forward passes a second time then."""
    return torch._C._current_graph_task_id() != -1


class FlopsMeter:
    """Counts, with forward hooks, how often the sparse weights of a model are used, until it is closed.

    Args:
        model: a sparse model, before its first forward pass.

    Example:
        >>> meter = FlopsMeter(model)
        >>> model(batch)
        >>> meter.close()["fc1.weight"]
    """

    def __init__(self, model: nn.Module):
        self._uses: dict[str, float] = {}
        self._examples = 0
        names = {id(weight.parameter): name for name, weight in sparse_weights(model).items()}
        self._handles = [model.register_forward_pre_hook(self._count_examples, with_kwargs=True)]
        for module in model.modules():
            held = {attribute: names[id(p)] for attribute, p in _own_parameters(module) if id(p) in names}
            if held:
                self._handles.append(module.register_forward_hook(self._count_uses(held), with_kwargs=True))
        self._names = list(names.values())

    def _count_examples(self, module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = next((tensor for tensor in _tensors(inputs, kwargs) if tensor.dim()), None)
        self._examples += 1 if first is None else first.shape[0]

    def _count_uses(self, held: Mapping[str, str]) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if not _recomputing():
                for attribute, name in held.items():
                    uses = _uses(module, attribute, _tensors(inputs, kwargs), _tensors(output))
                    self._uses[name] = self._uses.get(name, 0.0) + uses

        return hook

    @property
    def has_counted(self) -> bool:
        return bool(self._uses)

    def close(self) -> dict[str, float]:
        """Removes the hooks; FLOPs of one weight for one example, by name of the sparse weight."""
        for handle in self._handles:
            handle.remove()
        return {name: 2 * self._uses.get(name, 0.0) / max(self._examples, 1) for name in self._names}


@torch.no_grad()
def flops_per_weight(model: nn.Module, *inputs: Any, **kwargs: Any) -> dict[str, float]:
    """Forward FLOPs of one weight of each sparse weight for one example, from one forward pass in eval mode.

    Args:
        model: a sparse model.
        inputs: positional arguments of the model: a batch, whose first tensor has the examples in its first dimension.
        kwargs: keyword arguments of the model.

    Example:
        >>> model = regrow.sparsify(torch.nn.Conv2d(3, 8, 3, padding=1), density=0.5)
        >>> flops_per_weight(model, torch.zeros(4, 3, 16, 16))
        {'weight': 512.0}
    """
    with _eval_mode(model):
        meter = FlopsMeter(model)
        try:
            model(*inputs, **kwargs)
        finally:
            flops = meter.close()
    return flops


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def flop_density(model: nn.Module, flops: Mapping[str, float]) -> float:
    """FLOPs of the present active weights, over those of the dense weights; in (0, 1].

    Args:
        model: a sparse model.
        flops: result of `flops_per_weight`.
    """
    weights = sparse_weights(model)
    dense = sum(flops[name] * weight.numel for name, weight in weights.items())
    return sum(flops[name] * weight.active for name, weight in weights.items()) / dense if dense else 1.0


def step_flops(model: nn.Module, flops: Mapping[str, float], window_share: float = 1.0) -> float:
    """FLOPs that the next training step of a sparse model needs, over those of a dense step; in (0, 1].

        Σ_l F_l (2 m_l + g_l) / Σ_l 3 F_l n_l

    with F_l the forward FLOPs of one weight of layer l, m_l its active weights and n_l its positions: the forward pass
    and the gradient of the input use each active weight once, the gradient of the weight costs as much for each
    position that has one. g_l = m_l in an ordinary step. A step that also needs gradients of inactive weights (in the
    window before an update, or for growth by gradient; `SparseWeight.gradient_positions`, usually n_l) takes them from
    a fraction c of the batch: g_l = m_l + c (gradient_positions - m_l). Masked storage has c = 1.

    This counts what the method needs, not what its storage computes: masked storage computes like a dense network. As
    in RigL's account (Evci et al. 2020, arXiv:1911.11134, table 1) the first layer's gradient of the input counts like
    any other, and the choice of positions, batch norms and the optimizer do not count.

    Args:
        model: a sparse model.
        flops: result of `flops_per_weight`.
        window_share: c in compressed storage, `window_batch` over the batch size, in (0, 1].

    Example:
        >>> model = regrow.sparsify(torch.nn.Linear(10, 10), density=0.1)
        >>> step_flops(model, {"weight": 2.0})
        0.1
    """
    weights = sparse_weights(model)
    dense = sum(3 * flops[name] * weight.numel for name, weight in weights.items())
    if not dense:
        return 1.0
    spent = 0.0
    for name, weight in weights.items():
        share = 1.0 if weight.default_window is None else window_share
        active = weight.active
        spent += flops[name] * (3 * active + share * (weight.gradient_positions - active))
    return spent / dense
