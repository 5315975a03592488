"""The mean of several models: of the clients of a federation, of the checkpoints of a soup."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regrow.weights import SparseWeight, among, is_sharded, plain_name, sparse_weights, unwrapped

__all__ = ["average"]


def average(models: Iterable[nn.Module], shares: Sequence[float] | None = None) -> nn.Module:
    """Returns a new model with the mean weights of several models, whatever their topologies and storages.

    The mean is that of the dense weights, zeros included: mean = sum of share * weight / sum of shares. A position is
    active if it is active in any of the models, so the mean is denser than each of them. Floating-point buffers
    (BatchNorm's statistics) are averaged too. Other buffers, the modes and the storage are those of the first model.

    Do not average state dicts entry by entry in compressed storage: entry k of two models has two positions.

    Args:
        models: at least one model, dense or sparse, all with the same parameters; they do not change.
        shares: weights of the models, at least 0 each, such as numbers of examples of clients; None: equal weights.

    Returns:
        A copy of the first model, out of its wrappers (DistributedDataParallel, torch.compile), with the mean.

    Raises:
        ValueError: models differ in names or shapes, which are listed; shares are invalid; weights are sharded; or
            inactive weights are not 0.
        RuntimeError: values and active set of a compressed weight do not belong together (see `regrow.check`).

    Example:
        >>> clients = [regrow.sparsify(make_model(), 0.1, seed=seed) for seed in range(3)]
        >>> server = average(clients, shares=[600, 1000, 400])
        >>> server(batch).shape
        torch.Size([2, 10])

    McMahan et al. 2017, arXiv:1602.05629 (federated averaging); Wortsman et al. 2022, arXiv:2203.05482 (soups).
    """
    models = [unwrapped(model) for model in models]
    parts = _parts(len(models), shares)
    weights, buffers = [_weights(model) for model in models], [_buffers(model) for model in models]
    _refuse_other_shapes([_shapes(w) | _shapes(b) for w, b in zip(weights, buffers, strict=True)])
    result = copy.deepcopy(models[0])
    sparse, dense = sparse_weights(result), dict(_named(result))
    for name in weights[0]:
        _write(sparse.get(name), dense[name], [one[name] for one in weights], parts)
    for name, buffer in _buffers(result).items():
        _write(None, buffer.values, [one[name] for one in buffers], parts)
    return result


def _parts(count: int, shares: Sequence[float] | None) -> list[float]:
    """Shares that add up to 1."""
    if not count:
        raise ValueError("average: models is empty; give at least one")
    shares = [1.0] * count if shares is None else [float(share) for share in shares]
    if len(shares) != count:
        raise ValueError(f"average: got {len(shares)} shares for {count} models; give one for each")
    if not all(math.isfinite(share) and share >= 0 for share in shares) or not sum(shares):
        raise ValueError(f"average: shares={shares} must be finite and at least 0, and not all 0")
    return [share / sum(shares) for share in shares]


@dataclass(frozen=True)
class _Flat:
    """A tensor as flat values at positions of its dense shape, ascending; None: at all of them."""

    shape: torch.Size
    values: Tensor
    positions: Tensor | None = None


def _weights(model: nn.Module) -> dict[str, _Flat]:
    sparse = {name: _sparse(weight) for name, weight in sparse_weights(model).items()}
    named = dict(_named(model))
    if sharded := [name for name, parameter in named.items() if is_sharded(parameter)]:
        raise ValueError(f"average: {sharded[0]} is sharded; gather the models first with regrow.save and regrow.load")
    return {name: sparse.get(name) or _flat(parameter) for name, parameter in named.items()}


def _named(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return ((plain_name(name), parameter) for name, parameter in model.named_parameters())


def _sparse(weight: SparseWeight) -> _Flat:
    weight.check()
    if stray := weight.stray():
        raise ValueError(
            f"average: {stray:,} inactive weights of {weight.name} are not 0; regrow.check(model) explains"
        )
    return _Flat(weight.shape, weight.values, weight.indices)


def _flat(tensor: Tensor) -> _Flat:
    return _Flat(tensor.shape, tensor.detach())


def _buffers(model: nn.Module) -> dict[str, _Flat]:
    """The buffers of a model but for those in which sparse weights keep their active sets."""
    weights = sparse_weights(model).values()
    ours = {id(weight.module._buffers.get(name)) for weight in weights for name in weight.buffers}
    return {plain_name(name): _flat(buffer) for name, buffer in model.named_buffers() if id(buffer) not in ours}


def _shapes(tensors: dict[str, _Flat]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _refuse_other_shapes(shapes: list[dict[str, tuple[int, ...]]]) -> None:
    for number, there in enumerate(shapes):
        here = shapes[0]
        if differing := sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name)):
            details = ", ".join(f"{n} ({there.get(n)} there, {here.get(n)} in model 0)" for n in differing[:5])
            raise ValueError(
                f"average: model {number} does not match; {len(differing)} entries differ: {details}; average models "
                "of one architecture"
            )


@torch.no_grad()
def _write(weight: SparseWeight | None, target: Tensor, tensors: list[_Flat], parts: list[float]) -> None:
    """Puts the mean into a tensor, or into the sparse weight whose parameter it is."""
    if weight is not None:
        before, positions = weight.indices, _union(tensors)
        weight.move(before[:0], positions[~among(positions, before)], state={}, grown_state={})
        weight.write(_mean(tensors, parts, positions).to(target.dtype))
    elif target.is_floating_point() or target.is_complex():
        target.copy_(_mean(tensors, parts, None).view(target.shape))


def _union(tensors: list[_Flat]) -> Tensor:
    """The positions that are active in any of the tensors."""
    device = tensors[0].values.device
    if any(tensor.positions is None for tensor in tensors):
        return torch.arange(tensors[0].shape.numel(), device=device)
    return torch.cat([tensor.positions.to(device) for tensor in tensors if tensor.positions is not None]).unique()


def _mean(tensors: list[_Flat], parts: list[float], positions: Tensor | None) -> Tensor:
    """The mean at some positions, shape (positions,); None: at all. Half types add up in float32."""
    first = tensors[0]
    size = first.shape.numel() if positions is None else positions.numel()
    dtype = torch.promote_types(first.values.dtype, torch.float32)
    total = torch.zeros(size, dtype=dtype, device=first.values.device)
    for tensor, part in zip(tensors, parts, strict=True):
        values = tensor.values.reshape(-1).to(total) * part
        if tensor.positions is None:
            total += values if positions is None else values[positions]
        else:
            there = tensor.positions.to(total.device)
            total[there if positions is None else torch.searchsorted(positions, there)] += values
    return total
