"""Intervals of accuracies and of their differences, never narrower than the number of test answers allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, fmean

from bnkit.intervals.interval import CONFIDENCE, Interval
from bnkit.intervals.student import mean_interval, standard_error

# The quantile of the standard normal distribution at (1 + CONFIDENCE) / 2.
_Z = 1.959963984540054


def accuracy_interval(accuracies: Sequence[float], answers: int | None) -> Interval | None:
    """The mean of ``accuracies`` over seeds and its 95 % interval, never narrower than ``answers`` test answers allow.

    All seeds are tested on the same examples, so more seeds do not make up for few examples. The ends are between 0 and 1.

    Args:
        accuracies: One for each seed.
        answers: The number of answers of each accuracy; None if it is not recorded.

    Examples:
        >>> interval = accuracy_interval([0.7, 0.7], 10)
        >>> round(interval.low, 2), round(interval.high, 2), interval.counted
        (0.4, 1.0, 10)
    """
    return _counted(accuracies, answers, share_half_width, (0.0, 1.0))


def difference_interval(
    differences: Sequence[float], answers: int | None, confidence: float = CONFIDENCE
) -> Interval | None:
    """The mean of ``differences`` of two accuracies, paired by seed, and its interval, between −1 and 1.

    Args:
        differences: One for each seed; both networks have the same number of answers.
        answers: As for ``accuracy_interval``.
        confidence: The confidence of the interval.

    Examples:
        >>> interval = difference_interval([0.0, 0.0, 0.0, 0.0, 0.0], 10)
        >>> round(interval.low, 3), round(interval.high, 3)
        (-0.163, 0.163)
    """
    return _counted(
        differences,
        answers,
        lambda difference, count: difference_half_width(difference, count, confidence),
        (-1.0, 1.0),
        confidence,
    )


def p_value(differences: Sequence[float], answers: int | None = None) -> float:
    """The p value of the mean of at least two ``differences``: 1 minus the confidence of the widest interval that excludes 0.

    Args:
        differences: One for each seed.
        answers: The number of answers, if they are differences of accuracies; otherwise None.

    Examples:
        >>> round(p_value([1.0, 2.0, 3.0]), 4), p_value([0.0, 0.0])
        (0.0742, 1.0)
    """
    from scipy.special import stdtr

    mean = abs(fmean(differences))
    error = standard_error(differences, 0.0 if answers is None else 1 / answers)
    if error == 0:
        return float(mean == 0)
    by_values = 2 * float(stdtr(len(differences) - 1, -mean / error))
    if answers is None:
        return by_values
    discordant = mean * answers
    deviations = discordant / math.sqrt(discordant + 1 - discordant**2 / (answers + 2))
    return max(by_values, 2 * NormalDist().cdf(-deviations))


def share_half_width(share: float, answers: int) -> float:
    """The smallest half width of the interval of a share of ``answers`` answers: it contains Wilson's (1927) interval.

    Examples:
        >>> round(share_half_width(1.0, 10), 3)
        0.278
    """
    low, high = share_limits(share, answers)
    return max(share - low, high - share)


def share_limits(share: float, answers: int) -> tuple[float, float]:
    """Wilson's (1927) 95 % interval of a share of ``answers`` answers.

    Examples:
        >>> [round(end, 3) for end in share_limits(0.2, 5)]
        [0.036, 0.624]
    """
    weight = 1 + _Z**2 / answers
    centre = (share + _Z**2 / (2 * answers)) / weight
    half = _Z * math.sqrt(share * (1 - share) / answers + _Z**2 / (4 * answers**2)) / weight
    return centre - half, centre + half


def difference_half_width(difference: float, answers: int, confidence: float = CONFIDENCE) -> float:
    """The smallest half width of the interval of a difference between two networks' accuracies on the same examples.

    Agresti & Min (2005), "Simple improved confidence intervals for comparing matched proportions": half an answer is added to
    each of the four cells (both right, one right, the other right, none right). The cells are not recorded, so the
    function takes those with the narrowest interval for this difference: no answer that only the worse network got right.

    Examples:
        >>> round(difference_half_width(0.0, 10), 4), round(difference_half_width(0.0, 10_000), 6)
        (0.1633, 0.000196)
    """
    difference = min(abs(difference), 1.0)
    discordant, total = difference * answers, answers + 2
    z = _Z if confidence == CONFIDENCE else NormalDist().inv_cdf((1 + confidence) / 2)
    half = z * math.sqrt(discordant + 1 - discordant**2 / total) / total
    return half + 2 * difference / total  # that interval is centred nearer to 0


def _counted(
    values: Sequence[float],
    answers: int | None,
    least: Callable[[float, int], float],
    limits: tuple[float, float],
    confidence: float = CONFIDENCE,
) -> Interval | None:
    interval = by_values = mean_interval(values, confidence=confidence)
    if by_values is None or by_values.high is None:
        return by_values
    if answers is not None:
        interval = mean_interval(values, 1 / answers, least(by_values.mean, answers), confidence)
    assert interval is not None and interval.low is not None and interval.high is not None
    is_counted = interval.high > by_values.high
    return Interval(
        interval.mean,
        max(interval.low, limits[0]),
        min(interval.high, limits[1]),
        interval.n,
        answers if is_counted else None,
    )
