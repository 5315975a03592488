"""Prune rates."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import EXAMPLES
from oracle import naive
from regrow.schedules import SCHEDULES, prune_rate_schedule


@pytest.mark.parametrize(
    ("kind", "step", "rate"),
    [
        ("cosine", 0, 0.5),
        ("cosine", 50, (0.5 + 0.005) / 2),
        ("cosine", 100, 0.005),
        ("linear", 0, 0.5),
        ("linear", 25, 0.375),
        ("linear", 100, 0.0),
        ("constant", 0, 0.5),
        ("constant", 100, 0.5),
    ],
)
def test_rates(kind, step, rate):
    assert prune_rate_schedule(kind, 0.5, 100)(step) == pytest.approx(rate, abs=1e-15)


@EXAMPLES
@given(st.sampled_from(sorted(SCHEDULES)), st.floats(0.005, 0.99), st.integers(1, 10**6), st.data())
def test_rates_equal_the_oracle_and_stay_in_range(kind, p0, total, data):
    rate = prune_rate_schedule(kind, p0, total)
    step = data.draw(st.integers(0, total))
    assert rate(step) == pytest.approx(naive.prune_rate(step, total, p0, kind), abs=1e-12)
    assert 0 <= rate(step) <= p0
    assert rate(total + step) == rate(total)


@pytest.mark.parametrize("kind", sorted(SCHEDULES))
def test_a_rate_of_0_prunes_nothing(kind):
    assert prune_rate_schedule(kind, 0.0, 100)(50) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cos", 0.5, 10), "schedule='cos'.*cosine, linear, constant"),
        (("cosine", 1.0, 10), "prune_rate=1.0"),
        (("cosine", -0.1, 10), "prune_rate=-0.1"),
        (("cosine", math.nan, 10), "prune_rate=nan"),
        (("cosine", 0.5, 0), "total_steps=0"),
    ],
)
def test_checked_when_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        prune_rate_schedule(*arguments)
