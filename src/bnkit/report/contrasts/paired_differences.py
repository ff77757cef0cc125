"""Differences of two networks, paired by seed, and intervals for those of several pairs of networks at once. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bnkit.intervals.crossed import (
    CrossedInterval,
    ExampleSpread,
    interval_for_new_examples,
    p_value_for_new_examples,
)
from bnkit.intervals.holm import holm_confidences
from bnkit.intervals.interval import CONFIDENCE, Interval
from bnkit.intervals.sequential import SupportsInterval
from bnkit.report.contrasts.example_differences import spread_over_examples
from bnkit.report.objective import Objective
from bnkit.report.outcomes import RunOutcome, fewest

# Where two networks are compared: at a learning rate, or each at its best one, on the test set or in training.
BEST, TRAINING = "best", "training"
Place = float | str


class BothIntervals(NamedTuple):
    """Of one difference.

    Attributes:
        these: For these test examples: seeds vary.
        new: For new examples like them: seeds and examples vary; None where it is not known how examples do.
    """

    these: Interval | None = None
    new: CrossedInterval | None = None


@dataclass(frozen=True)
class PairedDifferences:
    """The differences of one figure between two networks, one a seed.

    Attributes:
        values: The differences.
        answers: Of how many answers they are differences of shares, if they are.
        objective: What is compared.
        examples: How they vary over the test examples; None where that is not known.
    """

    values: tuple[float, ...]
    answers: int | None
    objective: Objective
    examples: ExampleSpread | None = None

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """Their mean with its interval for these test examples."""
        return self.objective.interval_of_difference(self.values, self.answers, confidence)

    def interval_for_new_examples(self, confidence: float = CONFIDENCE) -> CrossedInterval | None:
        """Their mean with its interval for new test examples like these; None where it is not known how examples vary."""
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
        """The same values with the interval that a verdict rests on: for new test examples, where it is known how those vary."""
        return self if self.examples is None else _ForNewExamples(self)

    @property
    def p_value(self) -> float:
        """That of their mean for these test examples; there are at least two."""
        return self.objective.p_value_of_difference(self.values, self.answers)

    @property
    def p_value_for_new_examples(self) -> float:
        """That of their mean for new test examples, where it is known how examples vary; there are at least two values."""
        if self.examples is None:
            return self.p_value
        return p_value_for_new_examples(self.values, self.examples, self.p_value, resolution=self._resolution)

    @property
    def _resolution(self) -> float:
        return 1 / self.answers if self.answers and self.objective.is_accuracy else 0.0


@dataclass(frozen=True)
class _ForNewExamples:
    """Differences whose interval is that for new test examples."""

    differences: PairedDifferences

    @property
    def values(self) -> tuple[float, ...]:
        return self.differences.values

    def interval(self, confidence: float) -> Interval | None:
        return self.differences.interval_for_new_examples(confidence)


def difference_in_test(pairs: Sequence[tuple[RunOutcome, RunOutcome]]) -> PairedDifferences | None:
    """On the test set at the end, second − first; None without pairs."""
    if not pairs:
        return None
    answers = fewest(outcome.answers for pair in pairs for outcome in pair)
    values = tuple(second.test - first.test for first, second in pairs)
    return PairedDifferences(values, answers, pairs[0][0].objective, spread_over_examples(pairs))


def difference_in_training(pairs: Sequence[tuple[RunOutcome, RunOutcome]]) -> PairedDifferences | None:
    """Over the training batches of the last epoch, second − first; None without pairs."""
    both = [(first.training, second.training) for first, second in pairs]
    differences = tuple(second - first for first, second in both if first is not None and second is not None)
    if not differences:
        return None
    answers = fewest(outcome.training_answers for pair in pairs for outcome in pair)
    return PairedDifferences(differences, answers, pairs[0][0].objective)


def simultaneous_intervals(of_pairs: Sequence[Mapping[Place, PairedDifferences]]) -> list[dict[Place, BothIntervals]]:
    """Of each pair of networks the intervals at all places: at each place, Holm's confidences for those of all pairs.

    Args:
        of_pairs: The differences of each pair by place.
    """
    these = _at_once(of_pairs, lambda differences: differences.p_value)
    new = _at_once(of_pairs, lambda differences: differences.p_value_for_new_examples)
    return [
        {
            place: BothIntervals(
                differences.interval(these[number, place]), differences.interval_for_new_examples(new[number, place])
            )
            for place, differences in known.items()
        }
        for number, known in enumerate(of_pairs)
    ]


def _at_once(
    of_pairs: Sequence[Mapping[Place, PairedDifferences]], p_value: Callable[[PairedDifferences], float]
) -> dict[tuple[int, Place], float]:
    """The confidence of each interval, by pair and place."""
    found = {(number, place): CONFIDENCE for number, known in enumerate(of_pairs) for place in known}
    for place in dict.fromkeys(place for known in of_pairs for place in known):
        tested = [
            (number, differences)
            for number, known in enumerate(of_pairs)
            if (differences := known.get(place)) is not None and len(differences.values) > 1
        ]
        if len(tested) > 1:
            confidences = holm_confidences([p_value(differences) for _, differences in tested])
            found |= {(number, place): c for (number, _), c in zip(tested, confidences, strict=True)}
    return found
