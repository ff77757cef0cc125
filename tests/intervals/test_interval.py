"""What an interval of a difference says."""

from __future__ import annotations

import pytest

from bnkit.intervals.interval import Conclusion, Interval, conclude


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval(0.05, 0.01, 0.09, 5), Conclusion.GAIN),
        (Interval(-0.05, -0.09, -0.01, 5), Conclusion.LOSS),
        (Interval(0.001, -0.004, 0.006, 5), Conclusion.NOTHING),
        (Interval(0.02, -0.05, 0.09, 5), Conclusion.UNKNOWN),
        (Interval(0.05, None, None, 1), Conclusion.UNKNOWN),
        (Interval(0.05, 0.01, 0.09, 2), Conclusion.UNKNOWN),
        (Interval(0.0, 0.0, 0.0, 2), Conclusion.UNKNOWN),
        (Interval(0.05, 0.01, 0.09, 3), Conclusion.GAIN),
        (None, Conclusion.UNKNOWN),
    ],
)
def test_the_verdict_follows_from_the_interval(interval, expected):
    assert conclude(interval, 0.01) is expected
