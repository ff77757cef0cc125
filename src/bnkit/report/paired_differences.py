"""Differences of two networks, paired by seed, and intervals for those of several pairs of networks at once. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bnkit.intervals.holm import holm_confidences
from bnkit.intervals.interval import CONFIDENCE, Interval
from bnkit.report.objective import Objective
from bnkit.report.outcomes import RunOutcome, fewest

# Where two networks are compared: at a learning rate, or each at its best one, on the test set or in training.
BEST, TRAINING = "best", "training"
Place = float | str


@dataclass(frozen=True)
class PairedDifferences:
    """The differences of one figure between two networks, one a seed.

    Attributes:
        values: The differences.
        answers: Of how many answers they are differences of shares, if they are.
        objective: What is compared.
    """

    values: tuple[float, ...]
    answers: int | None
    objective: Objective

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """Their mean with its interval."""
        return self.objective.interval_of_difference(self.values, self.answers, confidence)

    @property
    def p_value(self) -> float:
        """That of their mean; there are at least two."""
        return self.objective.p_value_of_difference(self.values, self.answers)


def difference_in_test(pairs: Sequence[tuple[RunOutcome, RunOutcome]]) -> PairedDifferences | None:
    """On the test set at the end, second − first; None without pairs."""
    if not pairs:
        return None
    answers = fewest(outcome.answers for pair in pairs for outcome in pair)
    return PairedDifferences(tuple(second.test - first.test for first, second in pairs), answers, pairs[0][0].objective)


def difference_in_training(pairs: Sequence[tuple[RunOutcome, RunOutcome]]) -> PairedDifferences | None:
    """Over the training batches of the last epoch, second − first; None without pairs."""
    both = [(first.training, second.training) for first, second in pairs]
    differences = tuple(second - first for first, second in both if first is not None and second is not None)
    if not differences:
        return None
    answers = fewest(outcome.training_answers for pair in pairs for outcome in pair)
    return PairedDifferences(differences, answers, pairs[0][0].objective)


def simultaneous_intervals(
    of_pairs: Sequence[Mapping[Place, PairedDifferences]],
) -> list[dict[Place, Interval | None]]:
    """Of each pair of networks the intervals at all places: at each place, Holm's confidences for those of all pairs.

    Args:
        of_pairs: The differences of each pair by place.
    """
    found: list[dict[Place, Interval | None]] = [
        {place: d.interval() for place, d in known.items()} for known in of_pairs
    ]
    for place in dict.fromkeys(place for known in of_pairs for place in known):
        tested = [
            (number, differences)
            for number, known in enumerate(of_pairs)
            if (differences := known.get(place)) is not None and len(differences.values) > 1
        ]
        confidences = holm_confidences([differences.p_value for _, differences in tested])
        if len(tested) > 1:
            for (number, differences), confidence in zip(tested, confidences, strict=True):
                found[number][place] = differences.interval(confidence)
    return found
