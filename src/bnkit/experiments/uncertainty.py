"""How far a mean can be trusted. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and where the true one lies with 95 % confidence.

    Attributes:
        mean: Of the values.
        low, high: The ends of the interval; None where there are too few values for one (n < 2).
        n: How many values.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


class Verdict(StrEnum):
    """What an interval of a difference says."""

    GAIN = "gain"
    LOSS = "loss"
    NOTHING = "nothing"
    UNKNOWN = "unknown"


def mean_interval(values: Sequence[float], resolution: float = 0.0) -> Interval | None:
    """The mean of ``values`` and its 95 % confidence interval by Student's t; None without values.

    Values that are counted in steps of ``resolution`` have at least the deviation of rounding to such steps.

    The values are taken as independent and, for few of them, roughly normal: differences paired by seed are.
    Student (1908), "The probable error of a mean". ``tests`` check its coverage by simulation.

    Example:
        >>> mean_interval([1.0, 2.0, 3.0])
        Interval(mean=2.0, low=-0.484..., high=4.484..., n=3)
    """
    if not values:
        return None
    n, mean = len(values), fmean(values)
    if n == 1:
        return Interval(mean, None, None, 1)
    from scipy import stats  # takes a third of a second, which `bnkit --help` need not wait for

    half = (
        float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * max(stdev(values), resolution / math.sqrt(12)) / math.sqrt(n)
    )
    return Interval(mean, mean - half, mean + half, n)


def ratio_interval(ratios: Sequence[float]) -> Interval | None:
    """The geometric mean of ``ratios``, all above 0, and its 95 % confidence interval; None without values.

    Example:
        >>> ratio_interval([0.5, 2.0]).mean
        1.0
    """
    of_logarithms = mean_interval([math.log(ratio) for ratio in ratios])
    if of_logarithms is None:
        return None
    low, high = (None if end is None else math.exp(end) for end in (of_logarithms.low, of_logarithms.high))
    return Interval(math.exp(of_logarithms.mean), low, high, of_logarithms.n)


def verdict(difference: Interval | None, margin: float) -> Verdict:
    """Whether a difference is one: its interval leaves out 0, lies within ``margin`` around it, or neither.

    Args:
        difference: Of the thing looked at, or None if there is none to look at.
        margin: The largest difference that would not matter.

    Example:
        >>> verdict(Interval(0.001, -0.004, 0.006, 5), margin=0.01)
        <Verdict.NOTHING: 'nothing'>
    """
    if difference is None or difference.low is None or difference.high is None:
        return Verdict.UNKNOWN
    if difference.low > 0:
        return Verdict.GAIN
    if difference.high < 0:
        return Verdict.LOSS
    if -margin <= difference.low and difference.high <= margin:
        return Verdict.NOTHING
    return Verdict.UNKNOWN
