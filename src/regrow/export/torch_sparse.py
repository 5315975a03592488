"""torch-sparse: a state dict whose sparse weights are torch's own sparse tensors."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from regrow._sparsify import densify
from regrow.io.atomic import write_atomically
from regrow.weights import SparseWeight, plain_name, sparse_weights, unwrapped

__all__ = ["save_torch_sparse", "torch_sparse_state"]


def torch_sparse_state(model: nn.Module) -> dict[str, Any]:
    """Returns the dense model's state dict with sparse weights as sparse tensors: CSR matrices, otherwise COO.

    Use it in programs that compute with torch.sparse or pass matrices on (to SciPy, to a solver), not for training,
    because an ordinary layer cannot have such parameters. `F.linear(x, state["fc1.weight"])` takes a CSR weight.
    Convolution weights are COO, because torch has no CSR of four dimensions.

    Args:
        model: sparse or dense.

    Example:
        >>> state = regrow.export.torch_sparse_state(model)
        >>> state["fc1.weight"].layout, state["fc1.bias"].layout
        (torch.sparse_csr, torch.strided)
    """
    state = {plain_name(name): value for name, value in unwrapped(densify(model)).state_dict().items()}
    return state | {name: _sparse(weight) for name, weight in sparse_weights(model).items()}


def save_torch_sparse(path: str | os.PathLike[str], model: nn.Module) -> None:
    """Writes `torch_sparse_state`, whole or not at all; `torch.load` reads it, with weights_only=True too.

    Args:
        path: the file to write.
        model: sparse or dense.

    Example:
        >>> regrow.export.save_torch_sparse("sparse.pt", model)
        >>> state = torch.load("sparse.pt")
        >>> plain = make_model()
        >>> plain.load_state_dict({name: value.to_dense() for name, value in state.items()})
        <All keys matched successfully>
    """
    with write_atomically(path) as temporary:
        torch.save(torch_sparse_state(model), temporary)


def _sparse(weight: SparseWeight) -> Tensor:
    """Returns the values of the active positions, zeros included."""
    positions, values = weight.indices, weight.values
    if len(weight.shape) != 2:
        coordinates = torch.stack(torch.unravel_index(positions, weight.shape))
        return torch.sparse_coo_tensor(coordinates, values, weight.shape, is_coalesced=True, check_invariants=True)
    rows, columns = positions // weight.shape[1], positions % weight.shape[1]
    starts = torch.searchsorted(rows, torch.arange(weight.shape[0] + 1, device=rows.device))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns, values, weight.shape, check_invariants=True)
