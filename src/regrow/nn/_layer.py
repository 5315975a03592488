"""The base of SparseLinear and SparseConv2d: the active values, their positions, and how both travel."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from regrow.ops._dtypes import DTYPE_NAMES, DTYPES
from regrow.ops.reference import gather_active, scatter_dense
from regrow.topology import indices as check

from . import tuning
from ._identity import Identity
from ._plain import is_plain, scatter
from ._state import LAST_UPDATE, digest_of, take_active, true_indices

_TRANSIENT = ("_plans", "_prepared", "on_backward", "_identity")  # never copied, pickled or saved
_COMPUTE = ("auto", "sparse", "dense")
_SHAPES_KEPT = 8
BackwardCallback = Callable[[Tensor, Tensor], None]


class SparseLayer(nn.Module):
    """A layer that stores only its active weights. Base of SparseLinear and SparseConv2d.

    Attributes:
        weight: parameter (active, 1), ordered by ascending flat position in the logical weight.
        indices: buffer (active,), those positions; int32, or int64 for a weight of 2^31 positions and more.
        bias: parameter (out,) or None.
        on_backward: None, or a function of (input, grad_output) that every backward pass through this layer
            calls with the ordinary tensors; nothing is kept while it is None. It is not copied, pickled or
            saved.
        why: the reason for the storage, for `regrow.summary`.
        compute: "auto" (a nearly dense layer computes through torch's dense operator), "sparse" or "dense".
        tune: whether "auto" measures the density above which dense is faster, at the first input of a shape, instead of
            using the table in `regrow.nn.tuning`; for the first eight shapes.
        tuned: buffer (shapes, 5) int64 with the measurements, None before the first: batch, height, width (1 and 1 for
            Linear), whether the input was a BlockedTensor, and the number of active weights from which dense is
            faster. Part of the state dict, so that a resumed run computes like the first one.
        digest: buffer (2,) int64, digest of the active set; with it, loading notices averaged indices.
        last_update: number of optimizer steps at the last topology update; 0 before the first. In the metadata of the
            state dict.
    """

    weight: nn.Parameter
    indices: Tensor
    bias: nn.Parameter | None
    tuned: Tensor | None
    digest: Tensor
    dense_shape: torch.Size
    kind: str

    def __init__(self, dense_shape: tuple[int, ...], bias: bool, positions: Tensor | None, dtype: torch.dtype | None):
        super().__init__()
        self.dense_shape = torch.Size(dense_shape)
        self.on_backward: BackwardCallback | None = None
        self._plans: dict[Any, Tensor] = {}
        self._prepared: dict[Any, tuple] = {}  # by input shape and dtype: what the kernels take; empty: dense
        self.compute = "auto"
        self.tune = False
        self.why = "made by hand"
        dtype = dtype or torch.get_default_dtype()
        check.check_real(self._label(), dtype, torch.device("cpu"))
        if positions is None:
            positions = torch.empty(0, dtype=torch.int64)
        check.check_positions(self._label(), positions, self.dense_shape.numel())
        self.register_buffer("indices", positions.to(self._index_dtype))
        self.register_buffer("tuned", None)
        self.register_buffer("digest", torch.tensor(digest_of(positions)))
        self.last_update = 0
        self.weight = nn.Parameter(torch.empty(positions.numel(), 1, dtype=dtype, device="cpu"))
        self.register_parameter("bias", nn.Parameter(torch.empty(dense_shape[0], dtype=dtype)) if bias else None)
        self.reset_parameters()
        self._identity = Identity(self)

    def reset_parameters(self) -> None:
        """Draw values as the dense layer does, from its fan-in; sparsity does not rescale them."""
        fan_in = self.dense_shape.numel() // max(self.dense_shape[0], 1)
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                nn.init.uniform_(parameter, -bound, bound)

    def _take_over(self, module: Any, positions: Tensor) -> None:
        """Values, bias and mode of a dense layer; one on the meta device has no values, so they are drawn."""
        weight, bias = module.weight, module.bias
        if weight.is_meta:
            self.set_topology(positions, self.weight.new_empty(positions.numel()))
            if bias is not None:
                self.bias = nn.Parameter(self.weight.new_empty(bias.shape), bias.requires_grad)
            self.reset_parameters()
        else:
            self.set_topology(positions, weight.detach().reshape(-1)[positions])
            self.bias = bias
        self.weight.requires_grad_(weight.requires_grad)
        self.train(module.training)

    # -- the active set

    @property
    def _index_dtype(self) -> torch.dtype:
        return check.index_dtype(self.dense_shape.numel())

    @property
    def active(self) -> int:
        """Number of active weights."""
        return self.indices.numel()

    @property
    def density(self) -> float:
        """Share of active positions, in [0, 1]."""
        return self.active / max(self.dense_shape.numel(), 1)

    def positions(self) -> tuple[Tensor, Tensor]:
        """The active set, and how the parameter is ordered.

        Returns:
            `positions` (active,) int64, ascending flat row-major positions in the logical weight; and
            `order` (active,) int64 with `weight[order[i]]` the value at `positions[i]`. (Parameter order is
            ascending order: `order` is 0, 1, 2, …)

        Example:
            >>> layer = SparseLinear(4, 2, positions=torch.tensor([1, 6]))
            >>> layer.positions()[0]
            tensor([1, 6])
        """
        return self.indices.long(), torch.arange(self.active)

    @torch.no_grad()
    def set_topology(self, positions: Tensor, values: Tensor) -> None:
        """Replace the active set and its values; `weight` stays the same object, its gradient is dropped.

        Args:
            positions: (active,) int64, ascending, unique, 0 <= position < dense_shape.numel().
            values: (active,) or (active, 1), of the layer's dtype, in the order of `positions`.

        Raises:
            TypeError, ValueError: before anything is changed; the message names the found and the expected value.

        Example:
            >>> layer.set_topology(torch.tensor([0, 3]), torch.zeros(2))
        """
        check.check_positions(self._label(), positions, self.dense_shape.numel())
        check.check_values(self._label(), values, positions, self.weight.dtype)
        # `set_`, so that optimizers, hooks and DDP, which hold the parameter, keep it although its length changes.
        self.weight.set_(values.detach().clone().view(-1, 1))  # type: ignore[call-overload]
        self.weight.grad = None
        self.indices = positions.to(self._index_dtype, copy=True)
        self._forget()
        self._identity.settle(self)
        self.digest = torch.tensor(self._identity.digest)

    def accept_values(self) -> None:
        """Confirms that the values belong to the active set, whatever code wrote them.

        An untrained copy of a layer refuses to compute if its values were written to and the original has another
        active set by then: the values are most likely an average of both.
        """
        self._identity.accept_values()

    def dense_weight(self) -> Tensor:
        """The logical weight, (dense_shape), zeros where inactive. Differentiable.

        Raises:
            ValueError: it has 2^31 positions or more.
        """
        check.check_dense(self._label(), self.dense_shape.numel())
        if not torch.jit.is_tracing():  # a trace would record the shapes as constants to compare
            self._check_parameters()
        if is_plain():
            return scatter(self.weight, self.indices, self.dense_shape)
        return ScatterDense.apply(self.weight, self.indices, self.dense_shape)

    # -- sparse or dense

    @property
    def compute(self) -> str:
        return self._compute

    @compute.setter
    def compute(self, how: str) -> None:
        if how not in _COMPUTE:
            raise ValueError(f"{self._label()}: compute={how!r} is unknown; use one of {_COMPUTE}")
        self._compute = how
        self._forget()

    def computes_dense(self, where: tuning.Where | None = None) -> bool:
        """Returns whether forward uses torch's dense operator (see `compute`, `tune` and `regrow.nn.tuning`).

        Args:
            where: (batch, height, width, blocked) of the input, as in `tuned`; None: any that was not measured.
        """
        if not self.dense_shape.numel():
            return True  # the kernels take no layer without inputs or outputs
        if self.compute != "auto":
            return self.compute == "dense"
        measured = None if where is None else self._measured(where)
        if measured is not None:
            return self.active >= measured
        return self.density >= tuning.dense_from(self.kind)

    def _measured(self, where: tuning.Where) -> int | None:
        """The number of active weights from which dense is faster, if that was measured; measures it if it may."""
        rows = [] if self.tuned is None else self.tuned.tolist()
        for *known, active in rows:
            if tuple(known) == where:
                return active
        can_be_dense = self.dense_shape.numel() <= check.LIMIT
        if not (self.tune and can_be_dense and tuning.can_measure()) or 0 in where[:3] or len(rows) >= _SHAPES_KEPT:
            return None
        active = tuning.measure(self, where)
        self.tuned = torch.tensor([*rows, [*where, active]])
        return active

    def _blank(self) -> SparseLayer:
        """A layer of the same shape without active weights, bias or hooks."""
        raise NotImplementedError

    def _example(self, where: tuning.Where) -> Tensor:
        """A random input."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Drop what depends on the active set."""
        self._plans.clear()
        self._prepared.clear()

    def _keep(self, cache: dict, key: Any, value: Any) -> Any:
        """Remembers what was made for an input shape, and forgets the oldest if there are many."""
        if len(cache) >= _SHAPES_KEPT:
            del cache[next(iter(cache))]
        cache[key] = value
        return value

    # -- running

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            from ._compiled import outside_the_graph

            if torch.compiler.is_exporting():
                return self._plain(input)
            return outside_the_graph(self, input)
        if is_plain():
            return self._plain(input)
        try:
            self._check_identity()
            return self._run(input)
        except Exception:
            if isinstance(input, torch.fx.Proxy):
                return self._recorded(input)
            self._values()  # these two say better what is wrong, if it is that
            self._check_parameters()
            raise

    def _check_identity(self) -> None:
        """Raise where values and positions do not belong together any more; cheap where nothing has happened."""
        identity: Identity = self._identity
        indices: Any = self._buffers["indices"]  # `self.indices` would take a microsecond, at every call
        if indices is not identity.indices or indices._version != identity.version or identity.family.several:
            identity.look(self)

    def _run(self, input: Tensor) -> Tensor:
        raise NotImplementedError

    def _recorded(self, input: Any) -> Any:
        """The layer as one node of the graph that torch.fx records, as it has torch's own layers."""
        return input.tracer.create_proxy("call_module", input.tracer.path_of_module(self), (input,), {})

    def _plain(self, input: Tensor) -> Tensor:
        """The output, by torch's own operators alone: of a dense layer with this weight."""
        weight, bias = self._values()
        if input.dtype != weight.dtype:
            input = self._accept(input)
        dense = self.dense_weight()
        # Under autocast torch's operator would compute in half precision, and the kernels do not.
        if not torch.is_autocast_enabled("cpu"):
            return self._dense_operator(input, dense, bias)
        with torch.autocast("cpu", enabled=False):
            return self._dense_operator(input, dense, bias)

    def _dense_operator(self, input: Tensor, dense: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _values(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias, where the bias need not be a parameter.

        Raises:
            RuntimeError: other code has taken the weight away.
        """
        if "weight" in self._parameters:
            return self.weight, self.bias
        raise RuntimeError(
            f"{self._label()}: its parameter `weight` was taken away, as torch.nn.utils.prune, weight_norm and "
            "parametrizations do; they do not work on a compressed layer, which has only the active values. "
            "Remedy: prune first, then call regrow.export.from_prune(model); or use "
            'regrow.sparsify(…, storage="masked"); or undo it with torch.nn.utils.parametrize.'
            "remove_parametrizations or torch.nn.utils.prune.remove"
        )

    def _check_parameters(self) -> None:
        """Raise unless weight and bias, which may be those of a functional_call, have the layer's shapes."""
        for name, shape in (("weight", (self.active, 1)), ("bias", (self.dense_shape[0],))):
            value = getattr(self, name, None)
            if value is not None and tuple(value.shape) != shape:
                raise RuntimeError(
                    f"{self._label()}: {name} has shape {tuple(value.shape)}, wanted {shape}; a compressed layer "
                    "computes with one value for each active position, so give torch.func.functional_call tensors of "
                    'the shapes of named_parameters(), or use storage="masked", whose weights have the dense shape'
                )

    def _accept(self, input: Tensor) -> Tensor:
        """The input in the layer's dtype: autocast's half types are widened, anything else is an error."""
        if input.dtype == self.weight.dtype:
            return input
        if torch.is_autocast_enabled(input.device.type) and input.is_floating_point():
            return input.to(self.weight.dtype)
        raise RuntimeError(
            f"{self._label()}: input is {input.dtype}, weight is {self.weight.dtype}; convert the input with "
            f".to({self.weight.dtype}), or use torch.autocast, under which this layer keeps its dtype"
        )

    # -- travelling

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", {}).get(prefix[:-1])
        if self.last_update and metadata is not None:
            metadata[LAST_UPDATE] = {"weight": self.last_update}

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors) -> None:
        self.last_update = local_metadata.get(LAST_UPDATE, {}).get("weight", 0)
        # The first two rewrite entries of other storages; the length must be right before torch compares shapes.
        self._compress_masked(state_dict, prefix)
        self._compress_dense(state_dict, prefix, missing)
        tuned = state_dict.get(prefix + "tuned")
        self.tuned = None if tuned is None else tuned.clone()
        if prefix + "indices" in state_dict and prefix + "weight" in state_dict:
            state_dict[prefix + "indices"] = true_indices(state_dict, prefix)
            try:
                self._resize_for(state_dict, prefix)
            except (TypeError, ValueError) as error:
                errors.append(f"{prefix}indices: {error}")
                return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)

    def _compress_masked(self, state_dict, prefix) -> None:
        """Loads the state of a masked layer into a compressed one."""
        mask, weight = state_dict.get(prefix + "weight_mask"), state_dict.get(prefix + "weight")
        if mask is None or weight is None or weight.shape != self.dense_shape:
            return
        del state_dict[prefix + "weight_mask"]
        indices = mask.reshape(-1).nonzero().squeeze(1)
        state_dict[prefix + "indices"] = indices.to(self._index_dtype)
        state_dict[prefix + "weight"] = weight.reshape(-1)[indices].unsqueeze(1)

    def _compress_dense(self, state_dict, prefix, missing) -> None:
        """Loads the active weights from a dense state, whose entries may be missing (strict)."""
        weight = state_dict.get(prefix + "weight")
        if prefix + "indices" not in state_dict and weight is not None and weight.shape == self.dense_shape:
            missing.append(prefix + "indices")
            take_active(state_dict, prefix, self.indices)

    @torch.no_grad()
    def _resize_for(self, state_dict, prefix) -> None:
        """Take on the length that is about to be loaded; the values follow."""
        indices, weight = state_dict[prefix + "indices"], state_dict[prefix + "weight"]
        check.check_positions(self._label(), indices.cpu(), self.dense_shape.numel())
        if weight.shape != (indices.numel(), 1):
            found = f"weight {tuple(weight.shape)} for {indices.numel()} indices"
            raise ValueError(f"{self._label()}: {found}; the state is damaged")
        self.set_topology(indices.cpu().long(), self.weight.new_zeros(indices.numel()))
        state_dict[prefix + "indices"], state_dict[prefix + "digest"] = self.indices.clone(), self.digest.clone()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _TRANSIENT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plans, self._prepared, self.on_backward = {}, {}, None  # plans are of one process
        self.__dict__.setdefault("last_update", 0)
        if "digest" not in self._buffers:  # pickled by an earlier version
            self.register_buffer("digest", torch.tensor(digest_of(self.indices)))
        self._identity = Identity(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseLayer:
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        twin._identity = self._identity.of_copy(self, twin)
        return twin

    def _apply(self, fn, recurse: bool = True):
        self._refuse_move(fn)
        self._forget()
        kept = self.indices, self.digest
        result = super()._apply(fn, recurse)
        self.indices, self.digest = kept  # on the CPU, as always; `to_empty` would leave memory without content
        return result

    def _refuse_move(self, fn) -> None:
        """Raise, before anything is changed, if `fn` takes the weight where there are no kernels."""
        remedy = (
            f"{self._label()} computes on the CPU in {DTYPE_NAMES}. Remedy: regrow.densify(model), "
            'or regrow.sparsify(…, storage="masked"), which runs anywhere'
        )
        try:
            probe = fn(self.weight.detach()[:0])  # of no element: only where it would end up is asked
        except Exception as error:
            raise RuntimeError(f"{remedy}. (Moving it failed with: {error})") from error
        if probe.device.type not in ("cpu", "meta") or probe.dtype not in DTYPES:
            raise RuntimeError(f"cannot move it to {probe.dtype} on {probe.device}: {remedy}")

    # -- describing

    def _label(self) -> str:
        return f"{type(self).__name__}{tuple(self.dense_shape)}"

    def _sparse_repr(self) -> str:
        return f"bias={self.bias is not None}, active={self.active}, density={self.density:.4g}"


class ScatterDense(torch.autograd.Function):
    """Active values to a dense weight; backward gathers."""

    @staticmethod
    def forward(ctx, weight: Tensor, indices: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(indices)
        return scatter_dense(weight, indices, shape)

    @staticmethod
    def backward(ctx, grad):
        (indices,) = ctx.saved_tensors
        return gather_active(grad, indices), None, None
