"""How far a mean can be trusted. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, stdev

CONFIDENCE = 0.95
# Of the standard normal distribution, its quantile at (1 + CONFIDENCE) / 2.
_Z = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A mean and where the true one lies with 95 % confidence.

    Attributes:
        mean: Of the values.
        low, high: The ends of the interval; None where there are too few values for one (n < 2).
        n: How many values.
        counted: Of how many answers, where not the spread of the values but the counting of so many sets the width.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    counted: int | None = None


class Conclusion(StrEnum):
    """What an interval of a difference says."""

    GAIN = "gain"
    LOSS = "loss"
    NOTHING = "nothing"
    UNKNOWN = "unknown"


def mean_interval(values: Sequence[float], resolution: float = 0.0, least: float = 0.0) -> Interval | None:
    """The mean of ``values`` and its 95 % confidence interval by Student's t; None without values.

    The values are taken as independent and, for few of them, roughly normal: differences paired by seed are.
    Student (1908), "The probable error of a mean". ``tests`` check its coverage by simulation.

    Args:
        values: Independent of each other.
        resolution: The step in which they are counted: their deviation is at least that of rounding to such steps.
        least: The least that each end is away from the mean.

    Example:
        >>> mean_interval([1.0, 2.0, 3.0])
        Interval(mean=2.0, low=-0.484..., high=4.484..., n=3, counted=None)
    """
    if not values:
        return None
    n, mean = len(values), fmean(values)
    if n == 1:
        return Interval(mean, None, None, 1)
    from scipy.special import stdtrit  # scipy.stats has it too, and takes ten times as long to load

    error = max(stdev(values), resolution / math.sqrt(12)) / math.sqrt(n)
    half = max(float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * error, least)
    return Interval(mean, mean - half, mean + half, n)


def accuracy_interval(accuracies: Sequence[float], answers: int | None) -> Interval | None:
    """The mean of ``accuracies`` over seeds and its 95 % interval, never narrower than ``answers`` test answers allow.

    However many seeds there are, all are tested on the same examples. Between 0 and 1.

    Args:
        accuracies: One a seed.
        answers: Of how many answers each is the share that is right; None if that is not recorded.

    Example:
        >>> interval = accuracy_interval([0.7, 0.7], 10)
        >>> round(interval.low, 2), round(interval.high, 2), interval.counted
        (0.4, 1.0, 10)
    """
    return _counted(accuracies, answers, share_half_width, (0.0, 1.0))


def difference_interval(differences: Sequence[float], answers: int | None) -> Interval | None:
    """The mean of ``differences`` of two accuracies, paired by seed, and its 95 % interval; between −1 and 1.

    Args:
        differences: One a seed, of two networks that gave the same answers' number.
        answers: As of ``accuracy_interval``.

    Example:
        >>> interval = difference_interval([0.0, 0.0, 0.0, 0.0, 0.0], 10)
        >>> round(interval.low, 3), round(interval.high, 3)
        (-0.163, 0.163)
    """
    return _counted(differences, answers, difference_half_width, (-1.0, 1.0))


def share_half_width(share: float, answers: int) -> float:
    """The least half width of the interval of a share of so many answers: it holds Wilson's (1927) around it.

    Example:
        >>> round(share_half_width(1.0, 10), 3)
        0.278
    """
    weight = 1 + _Z**2 / answers
    centre = (share + _Z**2 / (2 * answers)) / weight
    half = _Z * math.sqrt(share * (1 - share) / answers + _Z**2 / (4 * answers**2)) / weight
    return half + abs(share - centre)


def difference_half_width(difference: float, answers: int) -> float:
    """The least half width of the interval of a difference between the shares of the same answers that two networks got right.

    Agresti & Min (2005), "Simple improved confidence intervals for comparing matched proportions": half an answer is added to
    each of the four cells (both right, one right, the other right, none right). The cells are not recorded, so those are taken
    that give the narrowest interval for this difference: no answer is one that the worse network alone got right.

    Example:
        >>> round(difference_half_width(0.0, 10), 4), round(difference_half_width(0.0, 10_000), 6)
        (0.1633, 0.000196)
    """
    difference = min(abs(difference), 1.0)
    discordant, total = difference * answers, answers + 2
    half = _Z * math.sqrt(discordant + 1 - discordant**2 / total) / total
    return half + 2 * difference / total  # that interval's middle is nearer to 0


def _counted(
    values: Sequence[float],
    answers: int | None,
    least: Callable[[float, int], float],
    limits: tuple[float, float],
) -> Interval | None:
    interval = by_values = mean_interval(values)
    if by_values is None or by_values.high is None:
        return by_values
    if answers is not None:
        interval = mean_interval(values, 1 / answers, least(by_values.mean, answers))
    assert interval is not None and interval.low is not None and interval.high is not None
    is_counted = interval.high > by_values.high
    return Interval(
        interval.mean,
        max(interval.low, limits[0]),
        min(interval.high, limits[1]),
        interval.n,
        answers if is_counted else None,
    )


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


def conclude(difference: Interval | None, margin: float) -> Conclusion:
    """Whether a difference is one: its interval leaves out 0, lies within ``margin`` around it, or neither.

    Args:
        difference: Of the thing looked at, or None if there is none to look at.
        margin: The largest difference that would not matter.

    Example:
        >>> conclude(Interval(0.001, -0.004, 0.006, 5), margin=0.01)
        <Conclusion.NOTHING: 'nothing'>
    """
    if difference is None or difference.low is None or difference.high is None:
        return Conclusion.UNKNOWN
    if difference.low > 0:
        return Conclusion.GAIN
    if difference.high < 0:
        return Conclusion.LOSS
    if -margin <= difference.low and difference.high <= margin:
        return Conclusion.NOTHING
    return Conclusion.UNKNOWN
