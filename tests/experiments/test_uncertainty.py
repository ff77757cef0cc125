"""Intervals: by value against SciPy, and by how often they cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bnkit.experiments.uncertainty import Interval, Verdict, mean_interval, ratio_interval, verdict


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
    covered = sum((found := mean_interval(sample.tolist())).low <= 0.02 <= found.high for sample in samples)
    # Four standard errors of a binomial with 4000 tries.
    assert abs(covered / 4000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_it_covers_a_true_ratio_in_95_of_100_samples():
    samples = np.exp(np.random.default_rng(0).normal(math.log(1.2), 0.1, (4000, 5)))
    covered = sum((found := ratio_interval(sample.tolist())).low <= 1.2 <= found.high for sample in samples)
    assert abs(covered / 4000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_too_few_values():
    assert mean_interval([]) is None
    assert ratio_interval([]) is None
    assert mean_interval([0.5]) == Interval(0.5, None, None, 1)
    assert ratio_interval([2.0]) == Interval(2.0, None, None, 1)
    assert mean_interval([0.5, 0.5, 0.5]) == Interval(0.5, 0.5, 0.5, 3)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval(0.05, 0.01, 0.09, 5), Verdict.GAIN),
        (Interval(-0.05, -0.09, -0.01, 5), Verdict.LOSS),
        (Interval(0.001, -0.004, 0.006, 5), Verdict.NOTHING),
        (Interval(0.02, -0.05, 0.09, 5), Verdict.UNKNOWN),
        (Interval(0.05, None, None, 1), Verdict.UNKNOWN),
        (None, Verdict.UNKNOWN),
    ],
)
def test_verdicts(interval, expected):
    assert verdict(interval, 0.01) is expected
