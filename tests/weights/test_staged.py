"""The gradient between backward and the optimizer's step: tensors and products, added up and folded into a moment."""

import copy
import math

import pytest
import torch
from torch import nn

import regrow
from regrow.weights import StagedGradient

SHAPE = (30, 40)


def tensors(seed=0, rows=5):
    """A dense gradient, and the factors of two others."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (SHAPE, (rows, SHAPE[0]), (rows, SHAPE[1]), (rows, SHAPE[0]), (rows, SHAPE[1]))
    dense, *factors = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return dense, [tuple(factors[:2]), tuple(factors[2:])]


def staged_and_sum(with_tensor=True, products=2, rows=5):
    dense, pairs = tensors(rows=rows)
    staged, total = StagedGradient(), torch.zeros(SHAPE, dtype=torch.float64)
    if with_tensor:
        staged.add(dense.clone())
        total += dense
    for left, right in pairs[:products]:
        staged.add_product(left, right)
        total += left.t() @ right
    return staged, total


@pytest.mark.parametrize("factor", [1.0, -0.25, 0.0])
@pytest.mark.parametrize(("with_tensor", "products"), [(True, 0), (False, 1), (False, 2), (True, 2), (False, 0)])
def test_folding_is_a_weighted_sum(with_tensor, products, factor):
    staged, total = staged_and_sum(with_tensor, products)
    before = torch.randn(SHAPE, dtype=torch.float64)
    moment = before.clone()
    staged.fold_into(moment, decay=0.9, factor=factor)
    torch.testing.assert_close(moment, 0.9 * before + factor * total, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(staged.multiplied_out(factor, like=moment), factor * total, rtol=1e-12, atol=1e-12)


def test_factors_are_kept_only_while_they_are_smaller_than_the_tensor():
    """5 rows of 30 + 40 are 350 numbers, 17 rows 1,190; the tensor has 1,200."""
    assert [staged_and_sum(False, 1, rows)[0].tensor is None for rows in (5, 17, 18)] == [True, True, False]
    staged, total = staged_and_sum(False, 2, rows=9)  # 630 numbers, and 1,260 with the second product
    assert len(staged.products) == 1
    torch.testing.assert_close(staged.multiplied_out(1.0, like=total), total, rtol=1e-12, atol=1e-12)


def test_merging_adds_up():
    (staged, total), (other, more) = staged_and_sum(False, 1), staged_and_sum(True, 2)
    staged.merge(other)
    torch.testing.assert_close(staged.multiplied_out(1.0, like=total), total + more, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_seen_and_can_be_dropped(value):
    (staged, _), moment = staged_and_sum(), torch.ones(SHAPE, dtype=torch.float64)
    assert staged.is_finite()
    staged.products[1][0][2, 3] = value
    assert not staged.is_finite()
    staged.fold_into(moment, decay=0.5, factor=0.0)
    assert moment.eq(0.5).all()


def train(model, batches, reuse):
    """One step over micro-batches, from one buffer that is written to again or from a tensor each."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = regrow.SparseMomentum(model, optimizer, total_steps=10, update_every=9, window="all")
    buffer = batches[0].clone()
    for batch in batches:
        x = buffer.copy_(batch) if reuse else batch
        model(x).square().mean().backward()
    buffer.fill_(1e6)
    optimizer.step()
    return updater


def test_a_linear_layer_stages_products_and_a_caller_may_use_its_batch_again():
    dense = regrow.sparsify(nn.Linear(40, 30, bias=False).double(), 0.1, storage="compressed", seed=0)
    batches = torch.randn(2, 5, 40, dtype=torch.float64).unbind()
    moments = []
    for reuse in (False, True):
        updater = train(copy.deepcopy(dense), batches, reuse)
        (missing,) = updater._collectors.values()
        assert missing._staged.tensor is None
        moments.append(missing.moments["momentum_buffer"])
    assert torch.equal(*moments)
