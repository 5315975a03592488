"""Scores of missing links against lists of all paths; soft draws; receptive fields."""

import itertools
import math

import pytest
import torch

import regrow
from helpers import mlp
from regrow import criteria
from regrow.topology.link_prediction import LINK_SCORES, LinkScores
from regrow.topology.receptive_field import receptive_field


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def links(outputs, inputs, chance=0.35, seed=0):
    return torch.rand(outputs, inputs, generator=generator(seed)) < chance


def neighbours(network):
    """Of every node of both sides, ("out", i) and ("in", j), those that it is linked to."""
    near = {("out", i): set() for i in range(network.size(0))} | {("in", j): set() for j in range(network.size(1))}
    for i, j in network.nonzero().tolist():
        near["out", i].add(("in", j))
        near["in", j].add(("out", i))
    return near


def paths(near, u, v):
    return [(a, b) for a in near[u] for b in near[v] if b in near[a] and a != v and b != u]


def naive_paths(near, u, v):
    found = paths(near, u, v)
    community = {node for path in found for node in path}
    outside = {z: len(near[z] - community - {u, v}) for z in community}
    return sum(1 / math.sqrt((1 + outside[a]) * (1 + outside[b])) for a, b in found)


def naive_nodes(near, u, v, counts):
    """Nodes on paths, each seen from the end that it is two links away from."""
    total = 0.0
    for far, end in ((u, v), (v, u)):
        for z in near[end]:
            shared = len(near[z] & near[far])
            if shared and z != far:
                outside = max(len(near[z]) - shared, 1) - 1
                total += (shared if counts else 1) / (1 + outside)
    return total


NAIVE = {
    "ch3-l3p": naive_paths,
    "ch3-l3n": lambda near, u, v: naive_nodes(near, u, v, False),
    "ch2-l3n": lambda near, u, v: naive_nodes(near, u, v, True),
}


@pytest.mark.parametrize("score", LINK_SCORES)
@pytest.mark.parametrize(("shape", "seed"), [((7, 9), 0), ((12, 5), 1), ((6, 6), 2)])
def test_scores_are_those_of_all_paths(score, shape, seed):
    network = links(*shape, seed=seed)
    scores, near, tested = LINK_SCORES[score](network), neighbours(network), 0
    for i, j in (~network).nonzero().tolist():
        assert float(scores[i, j]) == pytest.approx(NAIVE[score](near, ("out", i), ("in", j)), abs=1e-12)
        tested += scores[i, j] > 0
    assert tested > 5


@pytest.mark.parametrize("soft", [False, True])
def test_links_that_score_come_before_those_that_do_not(soft):
    network = torch.zeros(6, 6, dtype=torch.bool)
    network[:3, :3] = links(3, 3, 0.6)
    taken = network.reshape(-1).nonzero().squeeze(1)
    scores = LINK_SCORES["ch2-l3n"](network).reshape(-1)
    scores[taken] = 0
    likely = set(scores.nonzero().squeeze(1).tolist())
    assert 0 < len(likely) < 9
    some = LinkScores((6, 6), "ch2-l3n", generator(), soft).largest(len(likely), taken)
    assert set(some.tolist()) == likely
    more = LinkScores((6, 6), "ch2-l3n", generator(), soft).largest(20, taken)
    assert likely < set(more.tolist())
    assert not set(more.tolist()) & set(taken.tolist())


def test_soft_growth_draws_in_proportion_to_scores():
    network = links(5, 5, 0.4, seed=3)
    taken, scores = network.reshape(-1).nonzero().squeeze(1), LINK_SCORES["ch3-l3p"](network).reshape(-1)
    scores[taken] = 0
    expected, source, draws = scores / scores.sum(), generator(), 3000
    drawn = torch.stack([LinkScores((5, 5), "ch3-l3p", source, True).largest(1, taken)[0] for _ in range(draws)])
    seen = torch.bincount(drawn, minlength=25).double()
    possible = expected > 0
    surprise = float(((seen - draws * expected)[possible].square() / (draws * expected[possible])).sum())
    freedom = int(possible.sum()) - 1
    assert not seen[~possible].any()
    assert surprise < freedom + 5 * (2 * freedom) ** 0.5


class Layer:
    def __init__(self, values, step):
        self.values, self.step, self.generator = torch.tensor(values), step, generator(step)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_soft_removal_keeps_in_proportion_to_a_power(temperature):
    values, draws = [1.0, -2.0, 4.0], 3000
    prune = criteria.sampled(criteria.magnitude, lambda step: temperature)
    kept = [int(prune(Layer(values, step)).argmax()) for step in range(draws)]
    weights = [abs(v) ** temperature for v in values]
    for index, weight in enumerate(weights):
        chance = weight / sum(weights)
        assert abs(kept.count(index) - draws * chance) < 5 * math.sqrt(draws * chance * (1 - chance)) + 1e-9


def test_relative_importance_is_a_share_of_row_and_column():
    model = regrow.sparsify(mlp(8, 12), 0.4, storage="masked", seed=0)
    weight = regrow.sparse_weights(model)["0.weight"]

    class View:
        indices, values, numel, shape = weight.indices, weight.values, weight.numel, weight.shape

    sizes = weight.parameter.detach().abs().double()
    expected = sizes / sizes.sum(0) + sizes / sizes.sum(1, keepdim=True)
    torch.testing.assert_close(criteria.relative_importance(View), expected.take(weight.indices))


@pytest.mark.parametrize(("outputs", "inputs"), [(5, 12), (12, 5), (6, 6)])
@pytest.mark.parametrize("randomness", [0.0, 0.3, 1.0])
def test_receptive_fields_have_exact_sizes(outputs, inputs, randomness):
    for number in (0, 1, 13, 30, outputs * inputs):
        positions = receptive_field(outputs, inputs, number, randomness, generator())
        assert positions.unique().numel() == positions.numel() == number
        assert torch.equal(positions, positions.sort().values)
        counts = torch.zeros(outputs, inputs).view(-1).index_fill(0, positions, 1).view(outputs, inputs)
        degrees = counts.sum(1 if outputs <= inputs else 0)
        assert degrees.max() - degrees.min() <= 1


def test_receptive_fields_are_the_nearest_or_anything():
    near, far = (receptive_field(10, 50, 50, r, generator()) for r in (0.0, 1.0))

    def distances(positions):
        away = (positions % 50 - positions // 50 * 5).abs()
        return torch.minimum(away, 50 - away)

    assert int(distances(near).max()) == 2
    assert int(distances(far).max()) > 15


@pytest.mark.parametrize("randomness", [0.3, 0.6])
def test_receptive_fields_fall_off_with_distance(randomness):
    seen = torch.zeros(9, dtype=torch.float64)
    source = generator()
    for _ in range(2000):
        seen += torch.bincount(receptive_field(1, 9, 1, randomness, source), minlength=9)
    away = torch.tensor([0, 1, 2, 3, 4, 4, 3, 2, 1], dtype=torch.float64)
    chances = (1 + away) ** (-(1 - randomness) / randomness)
    expected = 2000 * chances / chances.sum()
    assert float(((seen - expected) ** 2 / expected).sum()) < 8 + 5 * 4


def test_networks_start_from_receptive_fields():
    positions = regrow.receptive_fields(mlp(20, 40, 10), 0.2, randomness=0.2, distribution="erk", seed=3)
    again = regrow.receptive_fields(mlp(20, 40, 10), 0.2, randomness=0.2, distribution="erk", seed=3)
    assert all(torch.equal(positions[name], again[name]) for name in positions)
    sparse = regrow.sparsify(mlp(20, 40, 10), density=None, init=positions)
    plain = regrow.sparsify(mlp(20, 40, 10), 0.2, distribution="erk")
    counts = [[w.active for w in regrow.sparse_weights(m).values()] for m in (sparse, plain)]
    assert counts[0] == counts[1]
    with pytest.raises(ValueError, match=r"randomness=1\.5"):
        regrow.receptive_fields(mlp(20, 10), 0.2, randomness=1.5)
    assert any(
        not torch.equal(a, b)
        for a, b in itertools.zip_longest(
            positions.values(), regrow.receptive_fields(mlp(20, 40, 10), 0.2, distribution="erk", seed=4).values()
        )
    )
