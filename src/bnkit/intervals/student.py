"""Student's t intervals of a mean: for values that are independent and roughly normal, such as differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from bnkit.intervals.interval import CONFIDENCE, FEWEST, Interval


def mean_interval(
    values: Sequence[float], resolution: float = 0.0, least: float = 0.0, confidence: float = CONFIDENCE
) -> Interval | None:
    """The mean of ``values`` and its confidence interval by Student's t; None without values.

    The values have to be independent and, if they are few, roughly normal, as differences paired by seed are.
    Student (1908), "The probable error of a mean". ``tests`` check its coverage by simulation.

    Args:
        values: Independent values.
        resolution: The step in which they are counted: their deviation is at least that of rounding to such steps.
        least: The smallest distance of each end from the mean.
        confidence: The confidence of the interval.

    Examples:
        >>> mean_interval([1.0, 2.0, 3.0])
        Interval(mean=2.0, low=-0.484..., high=4.484..., n=3, counted=None)
    """
    if not values:
        return None
    n, mean = len(values), fmean(values)
    if n == 1:
        return Interval(mean, None, None, 1)
    from scipy.special import stdtrit  # scipy.stats has it too, and takes ten times as long to load

    half = max(float(stdtrit(n - 1, (1 + confidence) / 2)) * standard_error(values, resolution), least)
    return Interval(mean, mean - half, mean + half, n)


def ratio_interval(ratios: Sequence[float]) -> Interval | None:
    """The geometric mean of ``ratios``, all above 0, and its 95 % confidence interval; None without values.

    Fewer than three have no interval: for two durations, it would reach from a hundredth to a hundred times the mean.

    Examples:
        >>> ratio_interval([0.5, 2.0]).mean
        1.0
    """
    of_logarithms = mean_interval([math.log(ratio) for ratio in ratios])
    if of_logarithms is None:
        return None
    if of_logarithms.n < FEWEST:
        return Interval(math.exp(of_logarithms.mean), None, None, of_logarithms.n)
    low, high = (None if end is None else math.exp(end) for end in (of_logarithms.low, of_logarithms.high))
    return Interval(math.exp(of_logarithms.mean), low, high, of_logarithms.n)


def standard_error(values: Sequence[float], resolution: float) -> float:
    """The standard error of the mean; the deviation is at least that of rounding to steps of ``resolution``."""
    return max(stdev(values), resolution / math.sqrt(12)) / math.sqrt(len(values))
