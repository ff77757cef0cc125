"""Intervals: by value against SciPy, and by how often they cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bnkit.intervals.holm import holm, holm_confidences
from bnkit.intervals.interval import Conclusion, Interval, conclude
from bnkit.intervals.shares import (
    accuracy_interval,
    difference_half_width,
    difference_interval,
    p_value,
    share_half_width,
)
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
        (Interval(0.05, 0.01, 0.09, 5), Conclusion.GAIN),
        (Interval(-0.05, -0.09, -0.01, 5), Conclusion.LOSS),
        (Interval(0.001, -0.004, 0.006, 5), Conclusion.NOTHING),
        (Interval(0.02, -0.05, 0.09, 5), Conclusion.UNKNOWN),
        (Interval(0.05, None, None, 1), Conclusion.UNKNOWN),
        (None, Conclusion.UNKNOWN),
    ],
)
def test_the_verdict_follows_from_the_interval(interval, expected):
    assert conclude(interval, 0.01) is expected


@pytest.mark.parametrize("answers", [1, 10, 360, 10_000])
@pytest.mark.parametrize("difference", [0.0, 0.1, -0.5, 1.0])
def test_a_difference_is_no_more_certain_than_agresti_and_min_have_it(difference, answers):
    """From the four cells of the table of pairs: here the better network alone got ``b`` answers right, the worse one none."""
    b, c, n = abs(difference) * answers + 0.5, 0.5, answers + 2
    middle, error = (b - c) / n, math.sqrt((b + c) / n - ((b - c) / n) ** 2) / math.sqrt(n)
    low, high = stats.norm.interval(0.95, middle, error)
    least = difference_half_width(difference, answers)
    # The one that is told lies around the difference itself, and holds all of theirs.
    assert abs(difference) - least == pytest.approx(low)
    assert abs(difference) + least >= high - 1e-12


@pytest.mark.parametrize("answers", [1, 10, 360, 10_000])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.97, 1.0])
def test_a_share_is_no_more_certain_than_wilson_has_it(share, answers):
    theirs = stats.binomtest(round(share * answers), answers).proportion_ci(0.95, "wilson")
    share = round(share * answers) / answers
    least = share_half_width(share, answers)
    # It lies around the share itself, and is the narrowest of those that hold theirs.
    assert least == pytest.approx(max(share - theirs.low, theirs.high - share))


@pytest.mark.parametrize(
    ("values", "answers", "low", "high", "counted"),
    [
        # Five seeds that agree: 1.96 / 12; by values alone there would be certainty.
        ([0.0] * 5, 10, -0.16333, 0.16333, 10),
        # Two: steps of a tenth have the deviation 0.1 / sqrt(12), and t(0.975, 1) = 12.7062.
        (
            [0.0] * 2,
            10,
            -12.7062 * 0.1 / math.sqrt(12) / math.sqrt(2),
            12.7062 * 0.1 / math.sqrt(12) / math.sqrt(2),
            10,
        ),
        ([0.0] * 5, 10_000, -0.000196, 0.000196, 10_000),
        # Seeds that differ more than counting does set the width themselves.
        ([0.1, 0.2, 0.3], 10_000, 0.2 - 4.302653 * 0.1 / math.sqrt(3), 0.2 + 4.302653 * 0.1 / math.sqrt(3), None),
        ([0.1, 0.2, 0.3], None, 0.2 - 4.302653 * 0.1 / math.sqrt(3), 0.2 + 4.302653 * 0.1 / math.sqrt(3), None),
        ([0.5, 0.5], None, 0.5, 0.5, None),
        # No difference of two shares is above 1.
        ([1.0, 1.0, 1.0], 4, 1 - difference_half_width(1.0, 4), 1.0, 4),
        ([-1.0, 1.0], 1000, -1.0, 1.0, None),
    ],
)
def test_a_difference_of_accuracies(values, answers, low, high, counted):
    interval = difference_interval(values, answers)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=2e-6), pytest.approx(high, abs=2e-6))
    assert (interval.counted, interval.n) == (counted, len(values))


def test_an_accuracy_stays_between_0_and_1():
    assert accuracy_interval([1.0] * 4, 20).high == 1.0
    assert accuracy_interval([0.0] * 4, 20).low == 0.0
    assert accuracy_interval([1.0] * 4, 20).low == pytest.approx(
        stats.binomtest(20, 20).proportion_ci(0.95, "wilson").low
    )
    assert accuracy_interval([0.5], 20) == Interval(0.5, None, None, 1)
    assert accuracy_interval([], 20) is None


@pytest.mark.slow
@pytest.mark.parametrize("discordant", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("answers", [10, 50, 400])
def test_on_other_examples_the_difference_would_be_in_it(answers, discordant):
    """Five seeds that agree on every example: all chance is in which examples there are. One network is never the worse one."""
    generator, rounds = np.random.default_rng(answers), 2000
    found = generator.binomial(answers, discordant, rounds) / answers
    missed = sum(
        not (interval := difference_interval([value] * 5, answers)).low <= discordant <= interval.high
        for value in found.tolist()
    )
    assert missed / rounds <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / rounds)


def test_holm_by_hand():
    # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 (no less than the one before), 0.9 * 1.
    assert holm([0.02, 0.9, 0.01, 0.03]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_confidences_of_several_by_hand():
    # 0.01 <= 0.05 / 4 and 0.016 <= 0.05 / 3 are rejected, 0.03 > 0.05 / 2 is not, nor is what follows.
    assert holm_confidences([0.016, 0.9, 0.01, 0.03]) == pytest.approx([1 - 0.05 / 3, 0.975, 1 - 0.05 / 4, 0.975])
    assert holm_confidences([0.001, 0.002]) == pytest.approx([0.975, 0.95])
    assert holm_confidences([0.04]) == [pytest.approx(0.95)]
    assert holm_confidences([]) == []


@pytest.mark.parametrize("answers", [None, 40, 10_000])
@pytest.mark.parametrize("mean", [0.0, 0.01, 0.1, 0.4])
def test_the_p_value_is_where_the_interval_begins_to_leave_out_nothing(answers, mean):
    differences = [mean - 0.02, mean, mean + 0.015, mean + 0.005]
    p = p_value(differences, answers)
    assert 0 < p <= 1
    for confidence, leaves_out in ((1 - 1.001 * p, True), (1 - 0.999 * p, False)):
        if 0 < confidence < 1:
            interval = difference_interval(differences, answers, confidence)
            assert (interval.low > 0) == leaves_out


def test_the_p_value_is_scipy_s():
    differences = [0.1, 0.3, -0.05, 0.2, 0.25]
    assert p_value(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


def test_with_three_pairs_and_no_difference_one_in_twenty_intervals_leaves_out_nothing():
    generator = np.random.default_rng(0)
    draws = generator.normal(size=(4000, 3, 5))
    wrong = 0
    for values in draws:
        three = [row.tolist() for row in values - values[[1, 2, 0]]]
        confidences = holm_confidences([p_value(each) for each in three])
        intervals = [mean_interval(each, confidence=c) for each, c in zip(three, confidences, strict=True)]
        wrong += any(interval.low > 0 or interval.high < 0 for interval in intervals)
    assert wrong / len(draws) <= 0.05 + 3 * (0.05 * 0.95 / len(draws)) ** 0.5
    assert wrong / len(draws) > 0.03  # they are not too wide either
