"""Gradients of a product of input and weight that can be differentiated again.

The operators are bilinear, so the derivative of their gradients is made of the operators themselves. With G the
gradient of the output of x W.T, and P, Q, r the gradients of dx = G W, of dw = G.T x (where active) and of db:

    G receives  P W.T + x Q.T + r        x receives  G Q        W receives  G.T P (where active)

which are again products and gradients of products. So derivatives of any order are right. An ordinary backward pass
does not come here; one with `create_graph=True` does, and one that torch.func transforms (`vmap` of a backward pass,
`is_grads_batched`), which takes the plain operators of `reference.py`, since those can be batched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Arguments = tuple[Any, ...]  # indices, plan, then the operator's geometry as in its schema
Gradient = Tensor | None
transformed = torch._C._are_functorch_transforms_active
_is_batch, _is_old_batch = torch._C._functorch.is_batchedtensor, torch._C._functorch.is_legacy_batchedtensor


class Product(NamedTuple):
    """One kind of product of an input with a weight.

    Attributes:
        apply: (input, weight, bias, arguments, observer) -> output; differentiable.
        gradients: (grad_output, input, weight, arguments, want) -> those of input, weight and bias, empty where not
            wanted; not differentiable.
        reference: the same in plain torch, of (grad_output, input, weight, *arguments, *want).
        report: (observer, input, grad_output, arguments), which calls `observer.on_backward` with the ordinary tensors.
    """

    apply: Callable[..., Any]
    gradients: Callable[..., tuple[Tensor, Tensor, Tensor]]
    reference: Callable[..., tuple[Tensor, Tensor, Tensor]]
    report: Callable[..., None]


def watched(observer: Any) -> bool:
    """Returns whether an observer wants input and gradient of each product. A transformed pass never fills `.grad`."""
    return observer is not None and observer.on_backward is not None and not transformed()


def wanted(gradients: tuple[Gradient, Gradient, Gradient], want: Sequence[bool]) -> tuple[Gradient, Gradient, Gradient]:
    """Operators return empty tensors for what was not asked; autograd wants None."""
    dx, dw, db = gradients
    return dx if want[0] else None, dw if want[1] else None, db if want[2] else None


def is_ordinary() -> bool:
    """Returns whether a backward pass makes no graph of its own and is not transformed."""
    return not (torch.is_grad_enabled() or transformed())


def check_not_batched(*tensors: Tensor) -> None:
    """Raise where a blocked tensor would stand for several; vmap cuts them apart where kernels cannot begin."""
    for tensor in tensors:
        if _is_old_batch(tensor) or _is_batch(tensor):
            raise RuntimeError(
                "several gradients at once (is_grads_batched, vectorize=True, vmap of a backward pass) cannot pass "
                "through a sparse convolution; use torch.func.jacrev, torch.func.hessian or torch.func.vjp, where the "
                "forward pass computes with torch's own operators, or compute one gradient after the other"
            )


def gradients(
    product: Product, grad: Tensor, input: Tensor, weight: Tensor, arguments: Arguments, observer: Any, want
) -> tuple[Gradient, Gradient, Gradient]:
    """The gradients of input, weight and bias in any backward pass; None where not wanted."""
    if is_ordinary():
        return wanted(product.gradients(grad, input, weight, arguments, want), want)
    if transformed():
        return wanted(product.reference(grad, input, weight, *arguments, *want), want)
    input = input if want[0] else input.detach()  # it may have a place in the graph for the weight's sake
    return Gradients.apply(grad, input, weight, product, arguments, observer, want)


def plus(a: Gradient, b: Gradient) -> Gradient:
    """The sum of two gradients, where None is zero."""
    return b if a is None else a if b is None else a + b


class Gradients(torch.autograd.Function):
    """(grad_output, input, weight) to the gradients of input, weight and bias, None where not wanted."""

    @staticmethod
    def forward(ctx, grad, input, weight, product: Product, arguments: Arguments, observer, want):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, input, weight)
        ctx.product, ctx.arguments, ctx.observer = product, arguments, observer
        return wanted(product.gradients(grad, input, weight, arguments, want), want)

    @staticmethod
    def backward(ctx, of_dx, of_dw, of_db):
        (grad, input, weight), product = ctx.saved_tensors, ctx.product
        want_grad, want_input, want_weight, *_ = ctx.needs_input_grad
        of_dx, of_dw, of_db = (g if g is None else g.contiguous() for g in (of_dx, of_dw, of_db))
        if of_dx is not None and want_weight and watched(ctx.observer):
            product.report(ctx.observer, of_dx, grad, ctx.arguments)
        to_grad = _to_grad(ctx, input, weight, of_dx, of_dw, of_db) if want_grad else None
        to_input = to_weight = None
        if of_dw is not None and want_input:
            to_input, _, _ = Gradients.apply(grad, input, of_dw, product, ctx.arguments, None, (True, False, False))
        if of_dx is not None and want_weight:
            _, to_weight, _ = Gradients.apply(grad, of_dx, weight, product, ctx.arguments, None, (False, True, False))
        return to_grad, to_input, to_weight, None, None, None, None


def _to_grad(ctx, input: Tensor, weight: Tensor, of_dx: Gradient, of_dw: Gradient, of_db: Gradient) -> Gradient:
    """Returns what the gradient of the output receives: the products of the second factors."""
    apply, arguments = ctx.product.apply, ctx.arguments
    first = second = None
    if of_dx is not None:
        first = apply(of_dx, weight, None, arguments, ctx.observer)
    if of_dw is not None or of_db is not None:
        values = torch.zeros_like(weight) if of_dw is None else of_dw
        second = apply(input, values, of_db, arguments, None)
    return plus(first, second)
