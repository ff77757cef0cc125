"""Intervals and conclusions for paired differences with several looks while seeds are added.

All looks together are wrong at most as often as one interval would be. The assumptions are independent seeds, and those of
Student's t for the differences. Intervals for new test examples also keep this rate: every look uses the same examples, so that
the looks agree more than those for which the spending is exact.

A plan with a fixed number of seeds and a single look does not need this module: it uses the interval of the differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Protocol

from bnkit.errors import SettingsError
from bnkit.intervals.alpha_spending import confidence_at_look, level_at
from bnkit.intervals.interval import CONFIDENCE, FEWEST, Conclusion, Interval, conclude

# Above this number of seeds, no estimate of the number needed is given.
_MOST_PAIRS = 10_000


class SupportsInterval(Protocol):
    """Differences that can compute their interval."""

    @property
    def values(self) -> tuple[float, ...]:
        """One paired difference for each seed."""

    def interval(self, confidence: float) -> Interval | None:
        """The interval of their mean with ``confidence``."""


def interval_after_looks(
    differences: SupportsInterval, looks: Sequence[int], confidence: float = CONFIDENCE
) -> Interval | None:
    """The interval at the last of ``looks``; the chance that the interval of any look misses is at most 1 − ``confidence``.

    There may be a look after every pair, and the addition of pairs may stop at any look for any reason. The schedule of the looks
    must not depend on the differences, unless there is a look after every pair from the third on.

    Args:
        differences: All differences so far.
        looks: The number of pairs at each look; the last one is now. ``range(3, n + 1)`` for a look after every pair, which a
            loop with a stopping rule has to pass from its first look on.
        confidence: The confidence of all looks together.

    Returns:
        The interval, without ends for fewer than three pairs; None without differences.

    Raises:
        SettingsError: The last look does not match the number of differences.

    Examples:
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
    """A gain, a loss, less than ``margin`` (``NOTHING``), or still open (``UNKNOWN``), by ``interval_after_looks``.

    Raises:
        SettingsError: As for ``interval_after_looks``.
    """
    return conclude(interval_after_looks(differences, looks, confidence), margin)


def pairs_needed(
    differences: SupportsInterval, looks: Sequence[int], margin: float, confidence: float = CONFIDENCE
) -> int | None:
    """The number of pairs needed for a conclusion, if their mean and deviation stay the same.

    Args:
        differences, looks, confidence: As for ``interval_after_looks``.
        margin: The largest difference that would not matter.

    Returns:
        An estimate of the total number; the present number if there is a conclusion already. None without an estimate: fewer than
        three pairs, or more seeds do not help (too few test examples, or a mean too close to the margin).

    Raises:
        SettingsError: As for ``interval_after_looks``.

    Examples:
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
    # More seeds do not reduce the test examples' part of the width.
    half = max(now.high - now.mean, now.mean - now.low)
    by_seeds = float(stdtrit(pairs - 1, (1 + confidence) / 2)) ** 2 * seeds / pairs
    examples = max(0.0, half**2 - by_seeds) / float(ndtri((1 + confidence) / 2)) ** 2
    later = np.arange(pairs + 1, _MOST_PAIRS + 1)
    quantile = 1 - level_at(later, 1 - confidence) / 2
    halves = np.sqrt(stdtrit(later - 1, quantile) ** 2 * seeds / later + ndtri(quantile) ** 2 * examples)
    concluded = (abs(now.mean) > halves) | (abs(now.mean) + halves <= margin)
    return int(later[concluded.argmax()]) if concluded.any() else None
