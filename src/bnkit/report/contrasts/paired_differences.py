"""Differences of two networks, paired by seed, and simultaneous intervals for several pairs of networks. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple

from bnkit.intervals.crossed_effects import (
    CrossedInterval,
    ExampleSpread,
    interval_for_new_examples,
    p_value_for_new_examples,
)
from bnkit.intervals.holm import holm_confidences
from bnkit.intervals.interval import CONFIDENCE, Interval
from bnkit.intervals.sequential import SupportsInterval
from bnkit.report.contrasts.example_differences import spread_over_examples
from bnkit.report.objective_metric import Objective
from bnkit.report.run_outcomes import RunOutcome, fewest

# The places where two networks are compared: at one learning rate, or each at its best rate, on the test set or in training.
BEST, TRAINING = "best", "training"
RateKey = float | str


class BothIntervals(NamedTuple):
    """The two intervals of one difference.

    Attributes:
        these: For these test examples: only the seeds vary.
        new: For new test examples: seeds and examples vary; None if the scores per example are not known.
    """

    these: Interval | None = None
    new: CrossedInterval | None = None


@dataclass(frozen=True)
class PairedDifferences:
    """The differences of one figure between two networks, one for each seed.

    Attributes:
        values: The differences.
        answers: The number of answers, if the differences are differences of shares of right answers.
        objective: The measure that is compared.
        examples: How the differences vary over the test examples; None if that is not known.
    """

    values: tuple[float, ...]
    answers: int | None
    objective: Objective
    examples: ExampleSpread | None = None

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """The mean difference with its interval for these test examples."""
        return self.objective.interval_of_difference(self.values, self.answers, confidence)

    def interval_for_new_examples(self, confidence: float = CONFIDENCE) -> CrossedInterval | None:
        """The mean difference with its interval for new test examples; None if the scores per example are not known."""
        these = self.interval(confidence)
        if self.examples is None or these is None:
            return None
        return interval_for_new_examples(
            self.values,
            self.examples,
            these,
            resolution=self._resolution,
            confidence=confidence,
            limits=self.objective.limits_of_difference,
        )

    @property
    def decisive(self) -> SupportsInterval:
        """The same values with the interval that decides a verdict: the one for new test examples if it is known."""
        return self if self.examples is None else _ForNewExamples(self)

    @property
    def p_value(self) -> float:
        """The p value of the mean for these test examples; needs at least two values."""
        return self.objective.p_value_of_difference(self.values, self.answers)

    @property
    def p_value_for_new_examples(self) -> float:
        """The p value of the mean for new test examples if it is known, else for these; needs at least two values."""
        if self.examples is None:
            return self.p_value
        return p_value_for_new_examples(self.values, self.examples, self.p_value, resolution=self._resolution)

    def supposed(self, *, mean: float, deviation: float, pairs: int, examples: int) -> PairedDifferences:
        """Differences with another mean, spread and number, and as many test examples: for estimates of what would decide."""
        signs = [1.0, -1.0] * (pairs // 2) + [0.0] * (pairs % 2)
        step = deviation if pairs % 2 else deviation * math.sqrt((pairs - 1) / pairs)
        answers, spread = self.answers, self.examples
        if spread is not None:
            answers = None if answers is None else round(answers * examples / spread.count)
            spread = spread.supposed(mean - fmean(self.values), examples)
        return replace(self, values=tuple(mean + step * sign for sign in signs), answers=answers, examples=spread)

    @property
    def _resolution(self) -> float:
        return 1 / self.answers if self.answers and self.objective.is_accuracy else 0.0


@dataclass(frozen=True)
class _ForNewExamples:
    """Differences whose ``interval`` is the one for new test examples."""

    differences: PairedDifferences

    @property
    def values(self) -> tuple[float, ...]:
        return self.differences.values

    def interval(self, confidence: float) -> Interval | None:
        return self.differences.interval_for_new_examples(confidence)


def difference_in_test(pairs: Sequence[tuple[RunOutcome, RunOutcome]]) -> PairedDifferences | None:
    """The differences second − first on the test set at the end; None without pairs."""
    if not pairs:
        return None
    answers = fewest(outcome.answers for pair in pairs for outcome in pair)
    values = tuple(second.test - first.test for first, second in pairs)
    return PairedDifferences(values, answers, pairs[0][0].objective, spread_over_examples(pairs))


def difference_in_training(pairs: Sequence[tuple[RunOutcome, RunOutcome]]) -> PairedDifferences | None:
    """The differences second − first over the training batches of the last epoch; None without pairs."""
    both = [(first.training, second.training) for first, second in pairs]
    differences = tuple(second - first for first, second in both if first is not None and second is not None)
    if not differences:
        return None
    answers = fewest(outcome.training_answers for pair in pairs for outcome in pair)
    return PairedDifferences(differences, answers, pairs[0][0].objective)


def simultaneous_intervals(
    of_pairs: Sequence[Mapping[RateKey, PairedDifferences]],
) -> list[dict[RateKey, BothIntervals]]:
    """The intervals of each pair of networks at all learning rates; at each, the pairs together have Holm's confidences.

    Args:
        of_pairs: For each pair of networks, its differences by learning rate.
    """
    these = _at_once(of_pairs, lambda differences: differences.p_value)
    new = _at_once(of_pairs, lambda differences: differences.p_value_for_new_examples)
    return [
        {
            rate: BothIntervals(
                differences.interval(these[number, rate]), differences.interval_for_new_examples(new[number, rate])
            )
            for rate, differences in known.items()
        }
        for number, known in enumerate(of_pairs)
    ]


def _at_once(
    of_pairs: Sequence[Mapping[RateKey, PairedDifferences]], p_value: Callable[[PairedDifferences], float]
) -> dict[tuple[int, RateKey], float]:
    """The confidence of each interval, by pair and learning rate."""
    levels = {(number, rate): CONFIDENCE for number, known in enumerate(of_pairs) for rate in known}
    for rate in dict.fromkeys(rate for known in of_pairs for rate in known):
        tested = [
            (number, differences)
            for number, known in enumerate(of_pairs)
            if (differences := known.get(rate)) is not None and len(differences.values) > 1
        ]
        if len(tested) > 1:
            confidences = holm_confidences([p_value(differences) for _, differences in tested])
            levels |= {(number, rate): c for (number, _), c in zip(tested, confidences, strict=True)}
    return levels
