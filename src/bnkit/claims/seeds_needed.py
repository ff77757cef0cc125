"""Estimates how many more seeds an open claim would take, and how long. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from bnkit.claims.judge_hypotheses import ERROR_RATE, HypothesisTest
from bnkit.duration import format_duration
from bnkit.intervals.alpha_spending import level_at
from bnkit.intervals.examples_needed import examples_needed
from bnkit.intervals.interval import CONFIDENCE, FEWEST
from bnkit.intervals.proportions import difference_half_width
from bnkit.intervals.student import mean_interval
from bnkit.message_parts import plural

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_PAIRS = 10_000
# The number of seeds after which a claim may be given up because of too few test answers.
_SEEDS_TO_GIVE_UP = 6


@dataclass(frozen=True)
class Outlook:
    """The cost of deciding a claim.

    Attributes:
        seeds: The number of seeds so far.
        needed: The total number of seeds needed at this mean and deviation; None if it cannot be estimated.
        seconds_per_seed: The training time for a seed.
        answers: The number of test answers, if it is too small for any number of seeds; otherwise None.
        answers_needed: The number of test answers that would decide it with twice as many seeds; None if not known.
        is_hopeless: Whether ``answers`` would be too few for every mean that the seeds so far allow.
    """

    seeds: int
    needed: int | None
    seconds_per_seed: float
    answers: int | None = None
    answers_needed: int | None = None
    is_hopeless: bool = False

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
            enough = "" if self.answers_needed is None else f"; about {self.answers_needed:,} would"
            return f"no number of seeds would decide it: {self.answers:,} test answers are too few{enough}"
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
        >>> needed = outlook(HypothesisTest({0: 0.9, 1: 1.3, 2: 0.6}, 0.1, looks=()), 54, 3, 60.0)
        >>> str(needed)
        'it would take about 5 more seeds, 5 min of training'
    """
    import numpy as np

    values, pairs = list(test.effects.values()), len(test.effects)
    if pairs < FEWEST:
        return Outlook(seeds, None, seconds_per_seed)
    mean, later = fmean(values), np.arange(pairs + 1, _MOST_PAIRS + 1)
    rate = 2 * ERROR_RATE / max(1, questions)
    decided = _decided(test, mean, later, rate)
    if decided.any():
        return Outlook(seeds, math.ceil(int(later[decided.argmax()]) * seeds / pairs), seconds_per_seed)
    now, twice = test.answers, np.array([2 * pairs])
    if now is None:
        return Outlook(seeds, None, seconds_per_seed)
    enough = examples_needed(now, lambda answers: bool(_decided(test, mean, twice, rate, answers / now)[0]))
    these = mean_interval(values)
    assert these is not None and these.low is not None and these.high is not None
    is_hopeless = pairs >= _SEEDS_TO_GIVE_UP and not any(
        _decided(test, end, later, rate).any() for end in (these.low, these.high)
    )
    return Outlook(seeds, None, seconds_per_seed, now, enough, is_hopeless)


def _decided(
    test: HypothesisTest, mean: float, pairs: NDArray[Any], rate: float, times: float = 1.0
) -> NDArray[np.bool_]:
    """Whether each number of ``pairs`` would decide the test at the error rate of two questions, with ``times`` as many answers."""
    import numpy as np
    from scipy.special import ndtri, stdtrit

    level = level_at(pairs, rate) / 2
    quantile = -stdtrit(pairs - 1, level)
    error = max(stdev(test.effects.values()), test.resolution / math.sqrt(12)) / np.sqrt(pairs)
    examples = 0.0 if test.examples is None else test.examples.variance / (times * test.examples.count)
    half = np.hypot(quantile * error, -ndtri(level) * math.sqrt(examples))
    if test.answers is not None:
        least = difference_half_width(min(max(mean, -1.0), 1.0), round(times * test.answers))
        half = np.maximum(half, quantile * least / stdtrit(pairs - 1, (1 + CONFIDENCE) / 2))
    decided: NDArray[np.bool_] = max(mean - test.nothing, test.matters - mean) >= half
    return decided
