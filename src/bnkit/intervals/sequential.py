"""What paired differences say when they are looked at again and again as seeds are added.

All looks together are wrong at most as often as one interval would be. Between pairs nothing is assumed but that seeds are
independent; of the differences, what Student's t assumes. A difference that varies by its test examples too keeps its promise: they
are the same examples at every look, so that the looks agree more than those that the spending is exact for.

A plan that fixes the seeds in advance, and is looked at once, needs none of this: its interval is that of the differences alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Protocol

from bnkit.errors import SettingsError
from bnkit.intervals.alpha_spending import confidence_at_look, level_at
from bnkit.intervals.interval import CONFIDENCE, FEWEST, Conclusion, Interval, conclude

# Beyond so many seeds nobody is told how many more it takes.
_MOST_PAIRS = 10_000


class SupportsInterval(Protocol):
    """Differences with an interval of their own."""

    @property
    def values(self) -> tuple[float, ...]:
        """One paired difference a seed."""

    def interval(self, confidence: float) -> Interval | None:
        """Where their mean lies, with ``confidence``; wider for a higher one."""


def interval_after_looks(
    differences: SupportsInterval, looks: Sequence[int], confidence: float = CONFIDENCE
) -> Interval | None:
    """The interval at the last of ``looks``; the chance that the interval of any look misses is at most 1 − ``confidence``.

    It may be looked at after every pair, and adding pairs may stop at any look for whatever reason. How many pairs a look comes
    after must not have been chosen by the differences themselves, unless there is a look after every pair from the third on.

    Args:
        differences: All that there are now.
        looks: How many pairs there were at each look; the last one is now. ``range(3, n + 1)`` where every pair is looked at,
            which is what a loop that stops by itself needs from its first look on.
        confidence: Of all looks together.

    Returns:
        The interval, without ends below three pairs; None where there is no difference.

    Raises:
        SettingsError: The last look is not at as many pairs as there are.

    Example:
        >>> from bnkit.intervals.student import mean_interval
        >>> class Differences:
        ...     values = (0.041, 0.045, 0.048, 0.044)
        ...     def interval(self, confidence): return mean_interval(self.values, confidence=confidence)
        >>> once, every_pair = Differences().interval(0.95), interval_after_looks(Differences(), [3, 4])
        >>> [round(interval.low, 3) for interval in (once, every_pair)]
        [0.04, 0.037]
    """
    pairs = len(differences.values)
    if not looks or looks[-1] != pairs:
        raise SettingsError(f"looks={list(looks)}; expected the last of them at {pairs}, the number of differences")
    if pairs < FEWEST:
        return Interval(fmean(differences.values), None, None, pairs) if pairs else None
    return differences.interval(confidence_at_look(looks, confidence))


def conclusion_after_looks(
    differences: SupportsInterval, looks: Sequence[int], margin: float, confidence: float = CONFIDENCE
) -> Conclusion:
    """A gain, a loss, less than ``margin`` (``NOTHING``), or still open (``UNKNOWN``), as of ``interval_after_looks``.

    Raises:
        SettingsError: As of ``interval_after_looks``.
    """
    return conclude(interval_after_looks(differences, looks, confidence), margin)


def pairs_needed(
    differences: SupportsInterval, looks: Sequence[int], margin: float, confidence: float = CONFIDENCE
) -> int | None:
    """How many pairs it takes until there is a conclusion, if their mean and deviation stay what they are.

    Args:
        differences, looks, confidence: As of ``interval_after_looks``.
        margin: The largest difference that would not matter.

    Returns:
        An estimate, of all pairs; those there are, if they conclude already. None where nothing can be said: below three pairs, or
        where seeds alone do not help (the test examples are too few, or the mean is too near to 0 and the margin).

    Raises:
        SettingsError: As of ``interval_after_looks``.

    Example:
        >>> from bnkit.intervals.student import mean_interval
        >>> class Differences:
        ...     values = (0.01, 0.03, 0.02)
        ...     def interval(self, confidence): return mean_interval(self.values, confidence=confidence)
        >>> pairs_needed(Differences(), [3], margin=0.001)
        6
    """
    import numpy as np
    from scipy.special import ndtri, stdtrit

    pairs = len(differences.values)
    if conclusion_after_looks(differences, looks, margin, confidence) is not Conclusion.UNKNOWN:
        return pairs
    now = differences.interval(confidence)
    if pairs < FEWEST or now is None or now.low is None or now.high is None:
        return None
    seeds = stdev(differences.values) ** 2
    # What more seeds do not make smaller: the share of the test examples.
    half = max(now.high - now.mean, now.mean - now.low)
    by_seeds = float(stdtrit(pairs - 1, (1 + confidence) / 2)) ** 2 * seeds / pairs
    examples = max(0.0, half**2 - by_seeds) / float(ndtri((1 + confidence) / 2)) ** 2
    later = np.arange(pairs + 1, _MOST_PAIRS + 1)
    quantile = 1 - level_at(later, 1 - confidence) / 2
    halves = np.sqrt(stdtrit(later - 1, quantile) ** 2 * seeds / later + ndtri(quantile) ** 2 * examples)
    concluded = (abs(now.mean) > halves) | (abs(now.mean) + halves <= margin)
    return int(later[concluded.argmax()]) if concluded.any() else None
