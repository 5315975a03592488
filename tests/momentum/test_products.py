"""The largest entries of a product that is never made are those of the product."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import EXAMPLES
from regrow import topology
from regrow.momentum import products
from regrow.momentum.factored import FactoredMoment
from regrow.momentum.products import largest_of_product


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(products, "_BLOCK", 3)
    monkeypatch.setattr(products, "_PENDING", 2)


def of_the_whole(left, right, k, taken):
    scores = (left.t() @ right).abs().reshape(-1)
    scores[taken] = -math.inf
    return topology.largest(scores, k)


@pytest.mark.usefixtures("small_blocks")
@EXAMPLES
@given(st.data())
def test_exactly_those_of_the_whole_product(data):
    """Small integers are exact and full of ties and zeros; blocks and siftings are as many as in large layers."""
    rank, rows, columns = (data.draw(st.integers(low, high)) for low, high in ((0, 3), (1, 8), (1, 8)))
    numbers = st.sampled_from([0, 0, 0, 1, 1, -1, 2, -3, 7])
    factors = [data.draw(st.lists(numbers, min_size=rank * n, max_size=rank * n)) for n in (rows, columns)]
    sizes = ((rank, rows), (rank, columns))
    left, right = (torch.tensor(f, dtype=torch.float32).reshape(n) for f, n in zip(factors, sizes, strict=True))
    taken = torch.tensor(sorted(data.draw(st.sets(st.integers(0, rows * columns - 1)))), dtype=torch.int64)
    k = data.draw(st.integers(0, rows * columns - taken.numel()))
    assert largest_of_product(left, right, k, taken).tolist() == of_the_whole(left, right, k, taken).tolist()


@pytest.mark.usefixtures("small_blocks")
def test_blocks_below_the_bound_are_not_made(monkeypatch):
    """Norms that fall by half: the largest entries lie in the first blocks, and the others are left alone."""
    made = []
    offer = products._Best.offer
    monkeypatch.setattr(products._Best, "offer", lambda best, *block: (made.append(block), offer(best, *block)))
    generator = torch.Generator().manual_seed(0)
    falling = torch.logspace(0, -12, 24, dtype=torch.float64)
    left, right = (torch.randn(4, 24, generator=generator, dtype=torch.float64) * falling for _ in range(2))
    taken = torch.tensor([0, 25])
    assert largest_of_product(left, right, 9, taken).tolist() == of_the_whole(left, right, 9, taken).tolist()
    assert len(made) < 20  # of 64


def test_positions_beyond_int32():
    """A product of 4.9e9 entries, of which four are not 0."""
    size = 70_000
    left, right = torch.zeros(2, size), torch.zeros(2, size)
    left[0, [1, size - 1]] = torch.tensor([1.0, 2.0])
    right[0, [3, size - 1]] = torch.tensor([1.0, -2.0])
    scores = {1 * size + 3: 1, 1 * size + size - 1: 2, (size - 1) * size + 3: 2, size * size - 1: 4}
    by_score = sorted(scores, key=lambda position: (-scores[position], position))
    for k in range(5):
        assert largest_of_product(left, right, k, torch.tensor([7])).tolist() == sorted(by_score[:k])
    assert largest_of_product(left, right, 6, torch.tensor([0, size + 3])).tolist() == [1, 2, 3, *sorted(by_score[:3])]


def test_a_factored_moment_is_its_tensor():
    generator = torch.Generator().manual_seed(0)
    moment, tensor = FactoredMoment((5, 7), torch.float64), torch.zeros(5, 7, dtype=torch.float64)
    for factor in (1.0, -0.5, 2.0):
        pairs = [tuple(torch.randn(3, n, generator=generator, dtype=torch.float64) for n in (5, 7)) for _ in range(2)]
        moment.fold(pairs, 0.9, factor)
        tensor = 0.9 * tensor + factor * sum(left.t() @ right for left, right in pairs)
    assert moment.size == 6 * 3 * 12
    everywhere = torch.arange(35)
    torch.testing.assert_close(moment.take(everywhere), tensor.view(-1), rtol=0, atol=1e-12)
    torch.testing.assert_close(moment.multiplied_out(), tensor, rtol=0, atol=1e-12)
    assert moment.take(everywhere[:0]).shape == (0,)

    copy = FactoredMoment((5, 7), torch.float64)
    copy.load_state_dict(moment.state_dict())
    assert torch.equal(copy.multiplied_out(), moment.multiplied_out())
    assert moment.is_finite()
    pairs[0][0][1, 2] = math.inf
    assert not moment.is_finite()
    assert copy.is_finite()
    assert not moment.zero_().multiplied_out().any()
