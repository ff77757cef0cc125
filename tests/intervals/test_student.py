"""Intervals by Student's t: by value against SciPy, and by how often they cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bnkit.intervals.interval import Interval
from bnkit.intervals.student import mean_interval, ratio_interval


def test_the_interval_is_students():
    values = [0.3, 0.1, 0.45, 0.2, 0.31]
    theirs = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    ours = mean_interval(values)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.mean == pytest.approx(np.mean(values))
    assert ours.n == 5


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_it_covers_the_true_mean_in_95_of_100_samples(n):
    samples = np.random.default_rng(n).normal(0.02, 0.01, (4000, n))
    covered = sum((interval := mean_interval(sample.tolist())).low <= 0.02 <= interval.high for sample in samples)
    # Four standard errors of a binomial with 4000 tries.
    assert abs(covered / 4000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_it_covers_a_true_ratio_in_95_of_100_samples():
    samples = np.exp(np.random.default_rng(0).normal(math.log(1.2), 0.1, (4000, 5)))
    covered = sum((interval := ratio_interval(sample.tolist())).low <= 1.2 <= interval.high for sample in samples)
    assert abs(covered / 4000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_too_few_values():
    assert mean_interval([]) is None
    assert ratio_interval([]) is None
    assert mean_interval([0.5]) == Interval(0.5, None, None, 1)
    assert ratio_interval([2.0]) == Interval(2.0, None, None, 1)
    # Of two durations it would reach from a fortieth to forty times.
    assert ratio_interval([1.0, 4.0]) == Interval(pytest.approx(2.0), None, None, 2)
    assert mean_interval([0.5, 0.5, 0.5]) == Interval(0.5, 0.5, 0.5, 3)
