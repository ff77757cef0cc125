"""Intervals of shares and of their differences: by value, at their least width, and by how often they cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bnkit.intervals.interval import Interval
from bnkit.intervals.proportions import (
    accuracy_interval,
    difference_half_width,
    difference_interval,
    p_value,
    share_half_width,
)


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
    computed = generator.binomial(answers, discordant, rounds) / answers
    missed = sum(
        not (interval := difference_interval([value] * 5, answers)).low <= discordant <= interval.high
        for value in computed.tolist()
    )
    assert missed / rounds <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / rounds)


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
