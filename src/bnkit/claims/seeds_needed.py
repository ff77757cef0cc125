"""Estimates how many more seeds an open claim would take, and how long. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev

from bnkit.claims.hypothesis_tests import ERROR_RATE, HypothesisTest
from bnkit.duration import format_duration
from bnkit.intervals.alpha_spending import level_at
from bnkit.intervals.interval import CONFIDENCE, FEWEST
from bnkit.intervals.shares import difference_half_width
from bnkit.messages import plural

_MOST_PAIRS = 10_000


@dataclass(frozen=True)
class Outlook:
    """The cost of deciding a claim.

    Attributes:
        seeds: The number of seeds so far.
        needed: The total number of seeds needed at this mean and deviation; None if it cannot be estimated.
        seconds_per_seed: The training time for a seed.
        answers: The number of test answers, if it is too small for any number of seeds; otherwise None.
    """

    seeds: int
    needed: int | None
    seconds_per_seed: float
    answers: int | None = None

    @property
    def more(self) -> int | None:
        """The number of further seeds."""
        return None if self.needed is None else max(1, self.needed - self.seeds)

    @property
    def seconds(self) -> float:
        """The training time until it is decided; infinite if it cannot be estimated."""
        return math.inf if self.more is None else self.more * self.seconds_per_seed

    def __str__(self) -> str:
        if self.seeds == 0:
            return "not trained yet"
        if self.answers is not None:
            return f"no number of seeds would decide it: {self.answers:,} test answers are too few"
        if self.more is None:
            return f"open after {plural(self.seeds, 'seed')}, and what it would take cannot be said"
        return f"it would take about {plural(self.more, 'more seed')}, {format_duration(self.seconds)} of training"


def outlook(test: HypothesisTest, questions: int, seeds: int, seconds_per_seed: float) -> Outlook:
    """The cost of deciding a claim if the mean and the deviation of its effects stay the same.

    Args:
        test: The test of an open claim.
        questions: The number of open tests in all: Holm's procedure divides the error rate by it.
        seeds: The number of seeds so far; some may have no effect.
        seconds_per_seed: The training time for a seed.

    Examples:
        >>> found = outlook(HypothesisTest({0: 0.9, 1: 1.3, 2: 0.6}, 0.1, looks=()), 54, 3, 60.0)
        >>> str(found)
        'it would take about 5 more seeds, 5 min of training'
    """
    import numpy as np
    from scipy.special import stdtr, stdtrit

    values, pairs = list(test.effects.values()), len(test.effects)
    if pairs < FEWEST:
        return Outlook(seeds, None, seconds_per_seed)
    mean, later = fmean(values), np.arange(pairs + 1, _MOST_PAIRS + 1)
    error = max(stdev(values), test.resolution / math.sqrt(12)) / np.sqrt(later)
    if test.answers is not None:
        error = np.maximum(error, difference_half_width(mean, test.answers) / stdtrit(later - 1, (1 + CONFIDENCE) / 2))
    distance = max(mean - test.nothing, test.matters - mean)
    with np.errstate(divide="ignore"):
        p_values = stdtr(later - 1, -distance / error)
    decided = p_values <= level_at(later, 2 * ERROR_RATE / max(1, questions)) / 2
    needed = math.ceil(int(later[decided.argmax()]) * seeds / pairs) if decided.any() else None
    return Outlook(seeds, needed, seconds_per_seed, test.answers if needed is None else None)
