"""Saliency at initialisation: scores for `sparsify(init=...)` that show which weights of a dense network to keep.

Each function takes a dense model and returns scores by parameter name, larger for weights to keep. The papers compare
weights of all layers: `sparsify(model, density, init=scores, distribution="global")`; other distributions take the
best of each layer. The model, its buffers and torch's random state do not change.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from regrow.weights.prunable import Patterns, select

__all__ = ["grasp", "obd", "skeletonization", "snip", "synflow"]

Batches = Iterable[tuple[Any, Any]]
Loss = Callable[[Any, Any], Tensor]


def snip(model: nn.Module, batches: Batches, *, loss: Loss = cross_entropy, dense: Patterns = ()) -> dict[str, Tensor]:
    """|w * g|, the connection sensitivity (SNIP, Lee et al. 2019, arXiv:1810.02340, equation 5), not normalised.

    Args:
        model: a dense model, in the mode in which to score it.
        batches: pairs (inputs, targets); the paper has one batch of 100. The gradient is that of their losses' sum.
        loss: (outputs, targets) -> scalar.
        dense: as in `sparsify`.

    Returns:
        Scores of each prunable parameter, of its shape, finite where the gradient is.

    Raises:
        ValueError: there is no batch, or the model is already sparse.

    Example:
        >>> dense = make_model()
        >>> scores = regrow.snip(dense, [(batch, torch.tensor([0, 1]))])
        >>> regrow.summary(regrow.sparsify(dense, 0.05, init=scores, distribution="global")).active
        1191
    """
    weights = _weights(model, dense)
    with untouched(model):
        total = _gradient(model, weights, batches, loss)
    return {name: (w.detach() * g).abs() for (name, w), g in zip(weights.items(), total, strict=True)}


def grasp(
    model: nn.Module,
    batches: Batches,
    *,
    loss: Loss = cross_entropy,
    temperature: float = 200.0,
    dense: Patterns = (),
) -> dict[str, Tensor]:
    """w * (H g), the loss of gradient flow without a weight (GraSP, Wang et al. 2020, arXiv:2002.07376, equation 8).

    H is the Hessian of the loss and g its gradient, both over all batches. The paper removes the weights of largest
    -w * (H g), so that those kept keep the gradient flowing.

    Args:
        model: as in `snip`.
        batches: as in `snip`; the authors have ten examples a class.
        loss: as in `snip`.
        dense: as in `snip`.
        temperature: divides the outputs before the loss, above 0; 200 in the authors' code, to be 1 in the equation.

    Returns:
        Scores of each prunable parameter, of its shape, of either sign.

    Example:
        >>> dense = make_model()
        >>> scores = regrow.grasp(dense, [(batch, torch.tensor([0, 1]))])
        >>> dense = regrow.sparsify(dense, 0.05, init=scores, distribution="global")
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0")
    weights, batches = _weights(model, dense), list(batches)
    values = list(weights.values())

    def cooled(outputs: Any, targets: Any) -> Tensor:
        return loss(outputs / temperature, targets)

    with untouched(model), sdpa_kernel(SDPBackend.MATH):  # other kernels of attention have no second derivative
        flow = _gradient(model, weights, batches, cooled)
        scores = [torch.zeros_like(w) for w in values]
        for inputs, targets in batches:
            slopes = torch.autograd.grad(
                cooled(model(inputs), targets), values, create_graph=True, allow_unused=True, materialize_grads=True
            )
            product = sum((slope * g).sum() for slope, g in zip(slopes, flow, strict=True))
            curvature = torch.autograd.grad(product, values, allow_unused=True, materialize_grads=True)  # type: ignore[arg-type]
            scores = [s + w.detach() * c for s, w, c in zip(scores, values, curvature, strict=True)]
    return dict(zip(weights, scores, strict=True))


def obd(model: nn.Module, batches: Batches, *, loss: Loss = cross_entropy, dense: Patterns = ()) -> dict[str, Tensor]:
    """w^2 F / 2, the increase of the loss without a weight (optimal brain damage, LeCun et al. 1990, section 2).

    F is the diagonal of the empirical Fisher matrix, the mean of the squared gradients of single examples. It replaces
    the Hessian's diagonal.

    Args:
        model: as in `snip`; it sees one example at a time, so BatchNorm must be in eval mode.
        batches: as in `snip`; the first dimension of inputs and targets is the examples.
        loss: as in `snip`.
        dense: as in `snip`.

    Returns:
        Scores of each prunable parameter, of its shape, at least 0.

    Example:
        >>> dense = make_model()
        >>> scores = regrow.obd(dense, [(batch, torch.tensor([0, 1]))])
        >>> dense = regrow.sparsify(dense, 0.05, init=scores, distribution="global")
    """
    weights = _weights(model, dense)
    squares, examples = [torch.zeros_like(w) for w in weights.values()], 0
    with untouched(model):
        for of_example in gradients_of_examples(model, weights, batches, loss):
            for square, g in zip(squares, of_example, strict=True):
                square.addcmul_(g, g)
            examples += 1
    return {
        name: w.detach().square() * square / (2 * examples)
        for (name, w), square in zip(weights.items(), squares, strict=True)
    }


def skeletonization(
    model: nn.Module, batches: Batches, *, loss: Loss = cross_entropy, dense: Patterns = ()
) -> dict[str, Tensor]:
    """The relevance of units: how much the loss rises without one (Skeletonization, Mozer & Smolensky 1988, section 2).

    The relevance of a unit is -dL/da, with a factor a = 1 on what it passes to a layer: minus the sum of w * dL/dw over
    the weights that lead there. All of these get it as their score, so that whole columns go (of a convolution, input
    channels), and `compact` can take the units out. Ties go to the lower position, so one column may be left in part.

    Args:
        model: a trained dense model, in the mode in which to score it.
        batches: as in `snip`; the gradient is that of their losses' sum.
        loss: as in `snip`; the paper has the sum of |target - output|.
        dense: as in `sparsify`.

    Returns:
        Scores of each prunable parameter, of its shape, of either sign.

    Example:
        >>> dense = make_model()
        >>> scores = regrow.skeletonization(dense, [(batch, torch.tensor([0, 1]))])
        >>> dense = regrow.sparsify(dense, 0.5, init=scores)
    """
    weights = _weights(model, dense)
    with untouched(model):
        total = _gradient(model, weights, batches, loss)
    scores = {}
    for (name, w), g in zip(weights.items(), total, strict=True):
        flow = (w.detach() * g).transpose(0, 1).flatten(1).sum(1)
        scores[name] = -flow.view(1, -1, *[1] * (w.dim() - 2)).expand_as(w).contiguous()
    return scores


def synflow(
    model: nn.Module, inputs: Tensor, density: float, *, rounds: int = 100, dense: Patterns = ()
) -> dict[str, Tensor]:
    """Iterative synaptic flow (SynFlow, Tanaka et al. 2020, arXiv:2006.05467, algorithm 1); it uses no data.

    Each round makes all weights positive, feeds ones, and removes the weights of smallest |w * dR/dw|, where R is the
    sum of the outputs. The density falls by the same factor each time. It runs in float64 and eval mode on a copy of
    the model.

    Args:
        model: a dense model.
        inputs: one floating-point batch, of which only the shape of an example matters.
        density: the density for `sparsify`, in (0, 1].
        rounds: number of rounds, at least 1; 100 in the paper.
        dense: as in `sparsify`.

    Returns:
        Scores of each prunable parameter, of its shape: the round until which a weight stayed, and its rank in it.

    Raises:
        ValueError: a value is out of range, inputs are not floating-point, or the model is already sparse.
        FloatingPointError: the flow is not finite.

    Example:
        >>> dense = make_model()
        >>> scores = regrow.synflow(dense, batch, density=0.05, rounds=10)
        >>> dense = regrow.sparsify(dense, 0.05, init=scores, distribution="global")
    """
    if not 0 < density <= 1:
        raise ValueError(f"density={density} must be above 0 and at most 1")
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1")
    if not inputs.is_floating_point():
        raise ValueError(f"synaptic flow feeds ones, but the inputs are {inputs.dtype}; use snip, grasp or obd")
    twin = copy.deepcopy(model).double().eval()
    weights = _weights(twin, dense)
    with torch.no_grad():
        for tensor in (*twin.parameters(), *twin.buffers()):
            if tensor.is_floating_point():
                tensor.abs_()
    ones = torch.ones_like(inputs[:1], dtype=torch.float64)
    sizes = [w.numel() for w in weights.values()]
    scores = torch.zeros(sum(sizes), dtype=torch.float64, device=ones.device)
    stays = torch.ones(sum(sizes), dtype=torch.bool, device=ones.device)
    for completed in range(rounds):
        flow = _flow(twin, list(weights.values()), ones)
        ranks = torch.empty_like(flow)
        ranks[flow.argsort(stable=True, descending=True)] = torch.arange(flow.numel(), 0, -1).to(flow)
        ranks[~stays] = 0
        scores[stays] = completed + ranks[stays] / (flow.numel() + 1)
        keep = max(round(density ** ((completed + 1) / rounds) * flow.numel()), 1)
        chosen = torch.where(stays, ranks, -1.0).topk(keep).indices  # ranks are distinct
        stays = torch.zeros_like(stays).index_fill_(0, chosen, True)
        with torch.no_grad():
            for w, part in zip(weights.values(), stays.split(sizes), strict=True):
                w.mul_(part.view_as(w))
    return {name: part.view_as(w) for (name, w), part in zip(weights.items(), scores.split(sizes), strict=True)}


def _flow(model: nn.Module, weights: Sequence[Tensor], ones: Tensor) -> Tensor:
    """w * dR/dw of all weights, flat."""
    gradients = torch.autograd.grad(model(ones).sum(), weights, allow_unused=True, materialize_grads=True)
    flow = torch.cat([(w.detach() * g).reshape(-1) for w, g in zip(weights, gradients, strict=True)])
    if not torch.isfinite(flow).all():
        raise FloatingPointError("the synaptic flow is not finite: the network is too large; use snip or grasp")
    return flow


def _weights(model: nn.Module, dense: Patterns) -> dict[str, Tensor]:
    return {name: place.parameter for name, place in select(model, dense).items()}


def _gradient(model: nn.Module, weights: Mapping[str, Tensor], batches: Batches, loss: Loss) -> list[Tensor]:
    """The gradient of the sum of the losses of all batches."""
    values = list(weights.values())
    total, number = [torch.zeros_like(w) for w in values], 0
    for inputs, targets in batches:
        gradients = torch.autograd.grad(loss(model(inputs), targets), values, allow_unused=True, materialize_grads=True)
        total = [t + g for t, g in zip(total, gradients, strict=True)]
        number += 1
    _refuse_none(number)
    return total


def gradients_of_examples(
    model: nn.Module, weights: Mapping[str, Tensor], batches: Batches, loss: Loss
) -> Iterator[list[Tensor]]:
    """The gradient of each example's loss, one after the other."""
    examples = 0
    for inputs, targets in batches:
        for one in range(len(inputs)):
            yield _gradient(model, weights, [(inputs[one : one + 1], targets[one : one + 1])], loss)
            examples += 1
    _refuse_none(examples)


def _refuse_none(number: int) -> None:
    if not number:
        raise ValueError("batches holds no example; give a list, because a generator is empty once it has been read")


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Restores buffers, such as BatchNorm's statistics, and torch's random state."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=[index for index in devices if index is not None]):
        try:
            yield
        finally:
            for buffer, value in kept:
                buffer.copy_(value)
