"""Several questions at once, by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from bnkit.intervals.holm import holm, holm_confidences
from bnkit.intervals.proportions import p_value
from bnkit.intervals.student import mean_interval


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


@pytest.mark.slow
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
