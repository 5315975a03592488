"""Positions drawn in proportion to products of row and column weights, against the list of all positions."""

import itertools

import pytest
import torch

from regrow.topology.lazy import SampledScores
from regrow.topology.sampling import sample_products


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def chances(weights, number):
    """Of each set of `number` positions, that it is drawn one after the other without replacement."""
    result = {}
    for order in itertools.permutations([p for p, w in enumerate(weights) if w], number):
        left, chance = sum(weights), 1.0
        for position in order:
            chance *= weights[position] / left
            left -= weights[position]
        key = tuple(sorted(order))
        result[key] = result.get(key, 0.0) + chance
    return result


@pytest.mark.parametrize(
    ("rows", "columns", "number", "taken"),
    [
        ([3.0, 1.0], [1.0, 2.0, 4.0], 2, [2]),  # few positions: from a list of all
        ([5.0, 1.0, 0.0, 2.0], [1.0, 8.0, 1.0, 2.0], 2, [1]),  # more: by rejection
    ],
)
def test_draws_are_successive_draws_in_proportion(rows, columns, number, taken):
    weights = [r * c for r in rows for c in columns]
    weights = [0.0 if p in taken else w for p, w in enumerate(weights)]
    expected, draws, source = chances(weights, number), 4000, generator()
    seen = dict.fromkeys(expected, 0)
    for _ in range(draws):
        drawn = sample_products(torch.tensor(rows), torch.tensor(columns), number, torch.tensor(taken), source)
        seen[tuple(drawn.tolist())] += 1
    surprise = sum((seen[key] - draws * chance) ** 2 / (draws * chance) for key, chance in expected.items())
    freedom = len(expected) - 1
    assert surprise < freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("number", [0, 1, 5, 40, 77, 85])
def test_as_many_distinct_free_positions_as_asked_ascending(number):
    rows, columns, taken = torch.zeros(9), torch.rand(10, generator=generator()), torch.tensor([3, 4, 7, 55, 89])
    rows[2:4] = 1.0  # 20 of 90 positions are likely, and the others come when these are out
    drawn = sample_products(rows, columns, number, taken, generator())
    assert drawn.numel() == number
    assert (drawn[1:] > drawn[:-1]).all()
    assert not torch.isin(drawn, taken).any()
    likely = (drawn >= 20) & (drawn < 40)
    assert int(likely.sum()) == min(number, 20)


def test_one_row_may_have_nearly_all_the_weight():
    rows, columns = torch.full((1000,), 1e-12), torch.ones(1000)
    rows[5] = 1.0
    drawn = sample_products(rows, columns, 1500, torch.arange(10), generator())
    assert drawn.unique().numel() == 1500
    assert int(((drawn >= 5000) & (drawn < 6000)).sum()) > 950


def test_a_layer_wider_than_memory():
    ones = torch.ones(2**20)
    drawn = sample_products(ones, ones, 100, torch.tensor([7]), generator())
    assert drawn.numel() == 100
    assert int(drawn.max()) > 2**35


def test_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match="cannot draw 4 of 3 positions"):
        sample_products(torch.ones(2), torch.ones(2), 4, torch.tensor([0]), generator())


class Gradient:
    def __init__(self, sizes):
        self.sizes = sizes
        self.rows, self.columns = torch.ones(sizes.size(0)), torch.ones(sizes.size(1))
        self.asked = None

    def at(self, positions):
        self.asked = positions
        return self.sizes.reshape(-1)[positions]


@pytest.mark.parametrize("uniform", [False, True])
def test_sampled_scores_choose_the_largest_of_the_sample_and_ask_for_no_others(uniform):
    gradient = Gradient(torch.rand(30, 40, generator=generator(1)))
    scores = SampledScores(gradient, 50, generator(), uniform)
    chosen = scores.largest(10, torch.arange(600))
    assert gradient.asked.numel() == 50
    assert gradient.asked.min() >= 600
    best = gradient.asked[gradient.at(gradient.asked).topk(10).indices].sort().values
    assert torch.equal(chosen, best)
    assert SampledScores(gradient, 5, generator(), uniform).largest(10, torch.arange(600)).numel() == 10
