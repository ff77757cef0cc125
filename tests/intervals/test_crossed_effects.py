"""The interval for new examples: by value, against the pigeonhole bootstrap, and at its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bnkit.intervals.crossed_effects import (
    example_spread,
    interval_for_new_examples,
    largest_spread,
    most_discordant,
    p_value_for_new_examples,
)
from bnkit.intervals.proportions import difference_interval, p_value
from bnkit.intervals.student import mean_interval
from tests.intervals.crossed_designs import Design


def _both(differences, confidence=0.95):
    """The intervals for these and for new examples of right and wrong answers."""
    values, count = differences.mean(1).tolist(), differences.shape[1]
    these = difference_interval(values, count, confidence)
    spread = example_spread(differences, single_answers=True)
    new = interval_for_new_examples(
        values, spread, these, resolution=1 / count, confidence=confidence, limits=(-1.0, 1.0)
    )
    return these, new


def _design(seed, seeds=5, examples=200, **changes):
    return Design(seeds, examples, (0.9, 0.93), **changes).draw(np.random.default_rng(seed))[0]


@pytest.mark.slow
def test_the_variance_is_that_of_the_pigeonhole_bootstrap():
    """Owen (2007): seeds and examples drawn with replacement, each by itself. It counts the chance of single answers three times."""
    generator = np.random.default_rng(0)
    differences = _design(1, seeds=40, examples=400, difficulty=0.3, preference=0.5, luck=0.05).astype(float)
    n, m = differences.shape
    means = [differences[generator.integers(n, size=n)][:, generator.integers(m, size=m)].mean() for _ in range(4000)]
    values = differences.mean(1)
    residuals = differences - values[:, None] - differences.mean(0) + differences.mean()
    alone = (residuals**2).sum() / ((n - 1) * (m - 1)) / (n * m)
    ours = values.var(ddof=1) / n + example_spread(differences, single_answers=True).variance / m
    assert np.var(means) == pytest.approx(ours + 2 * alone, rel=0.1)


def test_the_spread_of_examples_is_without_what_seeds_add():
    generator = np.random.default_rng(0)
    of_examples, rest = generator.normal(0, 2, 500), generator.normal(0, 5, (50, 500))
    spread = example_spread(of_examples + rest, single_answers=False)
    assert spread.variance == pytest.approx(4, rel=0.15)
    assert example_spread(rest, single_answers=False).variance < 0.1
    # Of one pair nothing can be taken away.
    assert example_spread((of_examples + rest)[:1], single_answers=False).variance == pytest.approx(29, rel=0.15)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_it_holds_the_interval_for_these_examples(seed, confidence):
    these, new = _both(_design(seed), confidence)
    assert new.low <= these.low <= these.high <= new.high
    assert (new.mean, new.n, new.examples, new.recorded) == (these.mean, 5, 200, 5)


@pytest.mark.parametrize("examples", [2, 10, 360, 10_000])
def test_where_no_answers_differ_the_bound_is_wider_than_that_of_agresti_and_min(examples):
    these, new = _both(np.zeros((5, examples), np.int8))
    assert these.high == pytest.approx(1.96 / (examples + 2), rel=1e-4)
    assert new.high == -new.low == pytest.approx(min(1.96 * math.sqrt(2) / (examples + 2), 1), rel=1e-4)
    assert (new.counted, new.from_examples) == (examples, 1.0)


def test_no_end_leaves_the_range_of_differences():
    _, new = _both(np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 1]]))
    assert new.high == 1.0


def test_with_many_examples_it_is_students():
    differences = np.zeros((3, 100_000))
    for row, count in enumerate((1000, 3000, 2000)):
        differences[row, generator_rows(row, count)] = 1
    these, new = _both(differences)
    students = mean_interval(differences.mean(1).tolist())
    assert (new.low, new.high) == pytest.approx((students.low, students.high), rel=0.02)
    assert new.from_examples < 0.1
    assert (these.low, these.high) == pytest.approx((students.low, students.high), rel=1e-3)


def generator_rows(seed, count):
    return np.random.default_rng(seed).choice(100_000, count, replace=False)


def test_seeds_that_agree_leave_the_interval_of_matched_answers():
    """Then n runs say no more than one, and the interval is that of a table of two by two: 30 and 10 of 1000 answers differ."""
    row = np.array([1] * 30 + [-1] * 10 + [0] * 960)
    _, new = _both(np.tile(row, (5, 1)))
    half = 1.96 * math.sqrt((0.04 - 0.02**2) / 1000)
    assert (new.low, new.high) == pytest.approx((0.02 - half, 0.02 + half), rel=0.05)
    assert new.from_examples > 0.9


@pytest.mark.parametrize("seed", range(5))
def test_the_p_value_is_where_the_interval_reaches_nothing(seed):
    differences = _design(seed)
    values = differences.mean(1).tolist()
    spread = example_spread(differences, single_answers=True)
    p = p_value_for_new_examples(values, spread, p_value(values, 200), resolution=1 / 200)
    _, just_in = _both(differences, 1 - 0.99 * p)
    _, just_out = _both(differences, 1 - 1.01 * p)
    assert just_in.low <= 0 <= just_in.high
    assert not just_out.low <= 0 <= just_out.high
    assert p >= p_value(values, 200)


def test_the_p_value_of_no_difference_is_one():
    spread = example_spread(np.zeros((3, 50)), single_answers=True)
    assert p_value_for_new_examples([0.0] * 3, spread, 1.0, resolution=0.02) == 1.0


def test_a_p_value_may_be_tiny():
    spread = example_spread(np.ones((20, 10_000)) - 0.01 * np.eye(20, 10_000), single_answers=False)
    assert 0 < p_value_for_new_examples([1.0 + 1e-6 * i for i in range(20)], spread, 0.0) < 1e-30


@pytest.mark.parametrize(
    ("first", "second", "share"), [(0.9, 0.9, 0.2), (1.0, 1.0, 0.0), (0.9, 1.0, 0.1), (0.5, 0.5, 1.0), (0.1, 0.2, 0.3)]
)
def test_the_most_that_two_networks_can_differ(first, second, share):
    assert most_discordant(first, second) == pytest.approx(share)


@pytest.mark.parametrize("seed", range(5))
def test_without_recorded_examples_it_is_wider(seed):
    differences = _design(seed)
    values = differences.mean(1).tolist()
    these, recorded = _both(differences)
    bound = largest_spread(recorded.mean, most_discordant(0.9, 0.9 + recorded.mean), 200)
    interval = interval_for_new_examples(values, bound, these, resolution=1 / 200)
    assert interval.high - interval.low > recorded.high - recorded.low
    assert interval.recorded == 0


@pytest.mark.parametrize("shape", [(0, 5), (3, 1), (3, 0)])
def test_too_few_examples(shape):
    assert example_spread(np.zeros(shape), single_answers=True) is None


def test_one_pair_has_no_interval():
    differences = np.array([[0, 1, 0]])
    these, new = _both(differences)
    assert (these.low, new.low, new.high, new.n) == (None, None, None, 1)
