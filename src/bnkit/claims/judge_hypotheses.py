"""Judges many claims at once from their effects for every seed. Needs no torch.

Each claim has two one-sided tests by Student's t: the effect is above zero (then it holds), and the effect is below the
smallest that matters (then it does not hold). If the effect is a sum of accuracies, the tests are for new test examples, as the
verdict of a comparison is. If neither can be shown, there is not enough data. With many tests at 5 %, one in twenty would be
wrong by chance. Holm's procedure (1979, "A simple sequentially rejective multiple test procedure") over both tests of all claims
keeps the probability that any verdict of the whole table is wrong at 5 %, for any dependence between the claims.

If seeds are added and the claims are judged again, each test has one p value for all its looks, which is small by chance no more
often than that of one look (``intervals.alpha_spending``). Holm's procedure over these keeps the 5 % for any stopping rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean

from bnkit.intervals.alpha_spending import anytime_p_value, confidence_at_look
from bnkit.intervals.crossed_effects import ExampleSpread, half_width_from_examples, one_sided_p_value
from bnkit.intervals.holm import holm
from bnkit.intervals.interval import CONFIDENCE, FEWEST, Interval
from bnkit.intervals.proportions import difference_half_width
from bnkit.intervals.student import mean_interval
from bnkit.report.contrasts.diverged_runs import Divergence

# The probability that any verdict of a table is wrong.
ERROR_RATE = 0.05


class Decision(StrEnum):
    """The possible verdicts on a claim."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    NOT_ENOUGH_DATA = "not enough data"
    NOT_ASKED = "not asked"


@dataclass(frozen=True)
class Verdict:
    """The verdict on one claim.

    Attributes:
        decision: The verdict.
        contradicted: The verdict of the seeds whose runs finished, if those that diverged contradict it; otherwise None.
        effect: The mean over the seeds, with its own 95 % interval; None without a pair.
        p_holds, p_does_not: The p values of the two tests, adjusted for all tests of the table; None if n is below 3.
    """

    decision: Decision
    effect: Interval | None
    p_holds: float | None = None
    p_does_not: float | None = None
    contradicted: Decision | None = None


@dataclass(frozen=True)
class Sample:
    """The effects at one look.

    Attributes:
        effects, answers, examples: As in a ``HypothesisTest``.
    """

    effects: Mapping[int, float]
    answers: int | None = None
    examples: ExampleSpread | None = None


@dataclass(frozen=True)
class HypothesisTest:
    """The data and the thresholds for testing one claim.

    Attributes:
        effects: The effects by seed; positive values support the claim.
        matters: The smallest effect that would matter.
        nothing: The effect above which the claim holds: 0, or less if the claim is "no worse".
        resolution: The step in which the effect is counted: its deviation is at least that of rounding to such steps,
            ``resolution / sqrt(12)``, so that five equal counts do not look certain.
        answers: The number of test answers, if the effect is a difference of accuracies: its interval is never narrower than
            this number allows.
        looks: The sample at each earlier look, if seeds are added; None if the seeds were fixed in advance and there is only
            one look.
        examples: How the effect varies over the test examples. Then the verdict is for new examples; None if that is not known,
            or if the effect is not a sum of accuracies.
        diverged: What diverged, and what the effect would be if that counts; None if nothing did, or if its worth is not known.
    """

    effects: Mapping[int, float]
    matters: float
    resolution: float = 0.0
    nothing: float = 0.0
    answers: int | None = None
    looks: tuple[Sample, ...] | None = None
    examples: ExampleSpread | None = None
    diverged: Divergence | None = None

    @property
    def sample(self) -> Sample:
        """The effects at the last look."""
        return Sample(self.effects, self.answers, self.examples)

    def contradicts(self, decision: Decision) -> bool:
        """Whether ``decision``, from the seeds whose runs finished, would not stand if those that diverged count."""
        mean = None if self.diverged is None else self.diverged.cautious_mean
        if mean is None:
            return False
        match decision:
            case Decision.HOLDS:
                return mean <= self.nothing
            case Decision.DOES_NOT_HOLD:
                return mean >= self.matters
            case _:
                return False


def judge(tests: Sequence[HypothesisTest]) -> list[Verdict]:
    """The verdicts on all ``tests``, in order.

    Examples:
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
    if p_does_not <= ERROR_RATE:  # also if the effect exists but is too small to matter
        decision = Decision.DOES_NOT_HOLD
    elif p_holds <= ERROR_RATE:
        decision = Decision.HOLDS
    if test.contradicts(decision):
        return Verdict(Decision.NOT_ENOUGH_DATA, _interval(test), p_holds, p_does_not, decision)
    return Verdict(decision, _interval(test), p_holds, p_does_not)


def _interval(test: HypothesisTest) -> Interval | None:
    """The effect's own interval; if there are several looks, one that allows for all of them."""
    confidence = CONFIDENCE
    if test.looks is not None:
        confidence = confidence_at_look(range(FEWEST, len(test.effects) + 1) or [len(test.effects)], confidence)
    these = _interval_of(test, test.sample, confidence)
    if these is None or these.low is None or these.high is None or test.examples is None:
        return these
    seeds = _interval_of(test, Sample(test.effects), confidence)
    assert seeds is not None and seeds.high is not None
    half = math.hypot(seeds.high - seeds.mean, half_width_from_examples(test.examples, 1 - confidence))
    half = max(half, these.high - these.mean)  # the number of answers limits it too, but is not counted twice
    return replace(these, low=these.mean - half, high=these.mean + half)


def _interval_of(test: HypothesisTest, sample: Sample, confidence: float = CONFIDENCE) -> Interval | None:
    """The interval from the seeds; if the number of answers is known, it is never narrower than that allows."""
    values = list(sample.effects.values())
    least = 0.0
    if sample.answers is not None and values:
        least = difference_half_width(fmean(values), sample.answers, confidence)
    return mean_interval(values, test.resolution, least, confidence)


def _p_values(test: HypothesisTest) -> tuple[float, float] | None:
    """The p values of "the effect is not above zero" and "it is not below what matters"; None if the claim is not tested."""
    if test.looks is None:
        return _p_values_of(test, test.sample) if len(test.effects) >= FEWEST else None
    looks = {len(sample.effects): sample for sample in (*test.looks, test.sample)}
    known = {pairs: _p_values_of(test, sample) for pairs, sample in looks.items() if pairs >= FEWEST}
    if not known:  # it may be tested later, so Holm's procedure counts it from the beginning
        return 1.0, 1.0
    above, below = ({pairs: both[side] for pairs, both in known.items()} for side in (0, 1))
    return anytime_p_value(above), anytime_p_value(below)


def _p_values_of(test: HypothesisTest, sample: Sample) -> tuple[float, float]:
    from scipy.special import stdtr

    interval = _interval_of(test, sample)
    assert interval is not None and interval.high is not None
    n, error = interval.n, standard_error_of(interval)
    distances = interval.mean - test.nothing, test.matters - interval.mean
    p_values = [float(stdtr(n - 1, -distance / error)) if error else float(distance <= 0) for distance in distances]
    if sample.examples is not None:
        seeds = _interval_of(test, Sample(sample.effects))
        assert seeds is not None
        error = standard_error_of(seeds)
        for side, distance in enumerate(distances):
            p_values[side] = max(p_values[side], one_sided_p_value(distance, error, n, sample.examples))
    assert all(math.isfinite(p) for p in p_values)
    return p_values[0], p_values[1]


def standard_error_of(interval: Interval) -> float:
    """The standard error of the mean, from its 95 % interval by Student's t."""
    from scipy.special import stdtrit

    assert interval.high is not None
    return (interval.high - interval.mean) / float(stdtrit(interval.n - 1, (1 + CONFIDENCE) / 2))
