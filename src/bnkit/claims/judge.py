"""From an effect in every seed to a verdict, for many claims at once. Needs no torch.

Each claim puts two one-sided questions to Student's t: is its effect above nothing (then it holds), and is its effect below
what matters (then it does not hold)? If neither can be shown there is not enough data. All questions of a family of claims
are asked at once, so that one in twenty would come out wrong by chance: Holm's procedure (1979, "A simple sequentially
rejective multiple test procedure") over both questions of all claims keeps the chance that any verdict of the whole table
is wrong at 5 %, whatever the claims have to do with each other.

Where seeds are added and one looks again, each question has one p value of all its looks, which is small by chance no more often than
that of one look (``intervals.alpha_spending``): Holm's procedure over those keeps the same promise, whenever one stops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from bnkit.intervals.alpha_spending import anytime_p_value, confidence_at_look
from bnkit.intervals.holm import holm
from bnkit.intervals.interval import CONFIDENCE, FEWEST, Interval
from bnkit.intervals.shares import difference_half_width
from bnkit.intervals.student import mean_interval

# The chance that any verdict of a table is wrong.
ERROR_RATE = 0.05


class Decision(StrEnum):
    """What came of a claim."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    NOT_ENOUGH_DATA = "not enough data"
    NOT_ASKED = "not asked"


@dataclass(frozen=True)
class Verdict:
    """The verdict on one claim.

    Attributes:
        finding: The verdict.
        effect: The mean over the seeds, and its 95 % interval by itself; None without a pair.
        p_holds, p_does_not: Of the two questions, adjusted for all that were asked beside them; None where n is below 3.
    """

    decision: Decision
    effect: Interval | None
    p_holds: float | None = None
    p_does_not: float | None = None


@dataclass(frozen=True)
class HypothesisTest:
    """What is known of one claim.

    Attributes:
        effects: By seed; positive values speak for the claim.
        matters: The smallest effect that would matter.
        nothing: The effect above which the claim holds: 0, or less where "no worse" is claimed.
        resolution: The step in which the effect is counted: its deviation is never taken for less than that of rounding
            to such steps, ``resolution / sqrt(12)``, so that five equal counts are not taken for certainty.
        answers: Of how many test answers it is a difference of shares, if it is one: its interval is never narrower than the
            counting of so many allows.
        looks: The effects at each earlier look, where seeds are added and there may be more looks; None for seeds that were fixed
            in advance and are looked at once.
    """

    effects: Mapping[int, float]
    matters: float
    resolution: float = 0.0
    nothing: float = 0.0
    answers: int | None = None
    looks: tuple[Mapping[int, float], ...] | None = None


def judge(tests: Sequence[HypothesisTest]) -> list[Verdict]:
    """The verdicts on all ``tests``, in their order.

    Example:
        >>> sure, unsure = HypothesisTest({0: 0.9, 1: 1.0, 2: 1.1, 3: 0.95}, 0.1), HypothesisTest({0: 1.0, 1: -1.0, 2: 0.5}, 0.1)
        >>> [verdict.decision.value for verdict in judge([sure, unsure])]
        ['holds', 'not enough data']
    """
    p_values = [_p_values(test) for test in tests]
    adjusted = iter(holm([p for both in p_values if both is not None for p in both]))
    return [
        Verdict(Decision.NOT_ENOUGH_DATA, _interval(test))
        if both is None
        else _verdict(test, next(adjusted), next(adjusted))
        for test, both in zip(tests, p_values, strict=True)
    ]


def _verdict(test: HypothesisTest, p_holds: float, p_does_not: float) -> Verdict:
    decision = Decision.NOT_ENOUGH_DATA
    if p_does_not <= ERROR_RATE:  # also of an effect that is there, and too small to matter
        decision = Decision.DOES_NOT_HOLD
    elif p_holds <= ERROR_RATE:
        decision = Decision.HOLDS
    return Verdict(decision, _interval(test), p_holds, p_does_not)


def _interval(test: HypothesisTest) -> Interval | None:
    """By itself; where there are several looks, one that is right at all of them."""
    confidence = CONFIDENCE
    if test.looks is not None:
        confidence = confidence_at_look(range(FEWEST, len(test.effects) + 1) or [len(test.effects)], confidence)
    return _interval_of(test, test.effects, confidence)


def _interval_of(test: HypothesisTest, effects: Mapping[int, float], confidence: float = CONFIDENCE) -> Interval | None:
    values = list(effects.values())
    least = 0.0
    if test.answers is not None and values:
        least = difference_half_width(fmean(values), test.answers, confidence)
    return mean_interval(values, test.resolution, least, confidence)


def _p_values(test: HypothesisTest) -> tuple[float, float] | None:
    """The p values of "the effect is not above nothing" and "the effect is not below what matters"; None if it is not asked."""
    if test.looks is None:
        return _p_values_of(test, test.effects) if len(test.effects) >= FEWEST else None
    known = {
        len(effects): _p_values_of(test, effects) for effects in (*test.looks, test.effects) if len(effects) >= FEWEST
    }
    if not known:  # it may be asked later, and counts among the others from the beginning
        return 1.0, 1.0
    above, below = ({pairs: both[side] for pairs, both in known.items()} for side in (0, 1))
    return anytime_p_value(above), anytime_p_value(below)


def _p_values_of(test: HypothesisTest, effects: Mapping[int, float]) -> tuple[float, float]:
    from scipy.special import stdtr

    interval = _interval_of(test, effects)
    assert interval is not None and interval.high is not None
    n, error = interval.n, standard_error_of(interval)
    if error == 0:
        return float(interval.mean <= test.nothing), float(interval.mean >= test.matters)
    above, below = (interval.mean - test.nothing) / error, (interval.mean - test.matters) / error
    p_values = float(stdtr(n - 1, -above)), float(stdtr(n - 1, below))
    assert all(math.isfinite(p) for p in p_values)
    return p_values


def standard_error_of(interval: Interval) -> float:
    """Of the mean of an interval of 95 % by Student's t."""
    from scipy.special import stdtrit

    assert interval.high is not None
    return (interval.high - interval.mean) / float(stdtrit(interval.n - 1, (1 + CONFIDENCE) / 2))
