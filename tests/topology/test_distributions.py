"""How many weights each layer starts with."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from helpers import EXAMPLES
from oracle import naive
from regrow.topology.distributions import DISTRIBUTIONS, initial_counts

LENET = [(300, 784), (100, 300), (10, 100)]


@pytest.mark.parametrize(
    ("shapes", "density", "distribution", "counts"),
    [
        (LENET, 0.05, "uniform", [11760, 1500, 50]),
        (LENET, 1.0, "uniform", [235200, 30000, 1000]),
        (LENET, 1.0, "erk", [235200, 30000, 1000]),
        ([(3, 3), (3, 3)], 0.5, "uniform", [5, 4]),  # 9 of 18: equal remainders, the first layer
        ([(1000, 10), (1, 2)], 0.001, "uniform", [9, 1]),  # at least one
        ([(1, 1), (10, 10)], 0.5, "er", [1, 49]),  # never above 1
    ],
)
def test_counts(shapes, density, distribution, counts):
    assert initial_counts(shapes, density, distribution) == counts


def test_erk_counts_the_kernel_and_er_does_not():
    shapes = [(8, 4, 3, 3), (8, 36)]
    er, erk = initial_counts(shapes, 0.1, "er"), initial_counts(shapes, 0.1, "erk")
    # er: densities 12/32 : 44/288; erk: 18/288 : 44/288; 58 weights over two layers of 288
    assert er == [41, 17]
    assert erk == [17, 41]


shape = st.lists(st.integers(1, 7), min_size=2, max_size=4)


@EXAMPLES
@given(st.lists(shape, min_size=1, max_size=5), st.floats(0.001, 1), st.sampled_from(DISTRIBUTIONS))
def test_sums_are_exact_bounds_hold_and_the_oracle_agrees(shapes, density, distribution):
    numel = [math.prod(s) for s in shapes]
    assume(round(density * sum(numel)) >= len(shapes))
    counts = initial_counts(shapes, density, distribution)
    assert sum(counts) == round(density * sum(numel))
    assert all(1 <= count <= n for count, n in zip(counts, numel, strict=True))
    assert counts == naive.initial_counts(shapes, density, distribution)


def test_too_little_for_all_layers_names_value_and_remedy():
    with pytest.raises(ValueError, match=r"density=1e-05 gives 3 .* 4 layers.*at least"):
        initial_counts([(300, 784), (100, 300), (10, 100), (10, 10)], 1e-5, "uniform")


def test_the_density_in_the_remedy_works():
    shapes = [(7, 3), (5, 5), (2, 2)]
    with pytest.raises(ValueError, match="at least one") as error:
        initial_counts(shapes, 0.01)
    remedy = float(str(error.value).split()[-1])
    assert sum(initial_counts(shapes, remedy)) >= len(shapes)


def test_unknown_distribution():
    with pytest.raises(ValueError, match=r"'erdos'.*uniform, er, erk"):
        initial_counts(LENET, 0.1, "erdos")
