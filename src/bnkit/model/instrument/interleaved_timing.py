"""Figures from interleaved rounds: each is a ratio within a round, so that a load that slows a whole round cancels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from bnkit.model.instrument.step_timing import StepTimes

# With fewer, no interval holds the median with 95 % confidence: all of n values lie on one side of it with probability 2 / 2**n.
ROUNDS_FOR_AN_INTERVAL = 6

Interval = tuple[float, float]


class PairedRounds:
    """The times of several variants, which ran once in each round.

    Durations are given at the speed of the fastest round: other work on a machine only ever adds time.

    Args:
        times: The times of each variant, by round.
    """

    def __init__(self, times: Mapping[str, Sequence[StepTimes]]) -> None:
        self._times = times

    def ms(self, variant: str) -> float:
        """The milliseconds of the fastest round of ``variant``."""
        return min(times.whole for times in self._times[variant])

    def ratio(self, after: str, before: str) -> tuple[float, float, float]:
        """The duration of ``after`` divided by that of ``before``: its median, and the ends of its interval around it."""
        pairs = zip(self._times[after], self._times[before], strict=True)
        ratios = [later.whole / earlier.whole for later, earlier in pairs]
        low, high = median_interval(ratios)
        return low, median(ratios), high

    def shares(self, variant: str, part: Callable[[StepTimes], float]) -> list[float]:
        """The share of ``part`` in the whole of ``variant``, by round."""
        return [part(times) / times.whole for times in self._times[variant]]

    def saved_share(self, after: str, before: str, part: Callable[[StepTimes], float]) -> float:
        """What ``part`` takes less in ``after``, as a share of the whole of ``before``: the median."""
        pairs = zip(self._times[after], self._times[before], strict=True)
        return median((part(earlier) - part(later)) / earlier.whole for later, earlier in pairs)


def median_interval(values: Sequence[float]) -> Interval:
    """The interval that holds the true median with 95 % confidence or more: two of the ordered values.

    It assumes nothing about their distribution (W. J. Conover, Practical Nonparametric Statistics, 3rd edition, section 3.2).
    For fewer than ``ROUNDS_FOR_AN_INTERVAL`` values: from the lowest to the highest.

    Examples:
        >>> median_interval([9, 1, 2, 3, 4, 5, 6, 7, 100])
        (2.0, 9.0)
        >>> median_interval([3, 1, 2])
        (1.0, 3.0)
    """
    if len(values) < ROUNDS_FOR_AN_INTERVAL:
        return float(min(values)), float(max(values))
    from scipy.stats import quantile_test

    interval: Any = quantile_test(values, p=0.5).confidence_interval(0.95)
    return float(interval.low), float(interval.high)
