"""What would lead to a verdict if there is none: more pairs of seeds, or more test examples. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from bnkit.intervals.alpha_spending import level_at
from bnkit.intervals.examples_needed import examples_needed
from bnkit.intervals.interval import FEWEST, Conclusion, conclude
from bnkit.intervals.sequential import pairs_needed
from bnkit.intervals.student import mean_interval
from bnkit.report.contrasts.paired_differences import PairedDifferences

# With this number of pairs, the spread of the seeds no longer matters.
_MANY_PAIRS = 1000


@dataclass(frozen=True)
class DecisionOutlook:
    """An estimate of what would lead to a verdict, if the mean and the spread of the differences stay the same.

    Attributes:
        pairs: The total number of pairs with these test examples; None if no number would.
        examples: The total number of test examples, with ``pairs_then`` pairs; None if these examples suffice with that number of
            pairs, or if no number of examples would.
        pairs_then: Twice the present number of pairs.
    """

    pairs: int | None
    examples: int | None
    pairs_then: int


def decision_outlook(
    differences: PairedDifferences, looks: Sequence[int], margin: float, confidence: float
) -> DecisionOutlook | None:
    """The estimate for an open verdict; None for fewer than three pairs, whose spread says little.

    Args:
        differences: The differences so far.
        looks: The number of pairs at each look; the last one is now.
        margin: The largest difference that would not matter.
        confidence: The confidence of all looks together.
    """
    if len(differences.values) < FEWEST:
        return None
    pairs = pairs_needed(differences.decisive, looks, margin, confidence)
    return DecisionOutlook(pairs, _examples_needed(differences, margin, confidence), 2 * len(differences.values))


def _examples_needed(differences: PairedDifferences, margin: float, confidence: float) -> int | None:
    """The number of test examples with which twice as many pairs would decide, to two digits."""
    if differences.examples is None:
        return None
    mean, deviation, now = fmean(differences.values), stdev(differences.values), differences.examples.count
    pairs = 2 * len(differences.values)

    def decide(examples: int) -> bool:
        return _decides(
            differences.supposed(mean=mean, deviation=deviation, pairs=pairs, examples=examples), margin, confidence
        )

    return examples_needed(now, decide)


def is_limited_by_examples(differences: PairedDifferences, margin: float, confidence: float) -> bool:
    """Whether the test examples are too few for a verdict with any number of pairs.

    That is so if there would be no verdict even if the seeds did not vary, for every mean within their 95 % interval.

    Args:
        differences, margin, confidence: As for ``decision_outlook``.
    """
    these = mean_interval(differences.values)
    if differences.examples is None or these is None or these.low is None or these.high is None:
        return False
    nearest = min(max(0.0, these.low), these.high)
    low, high = differences.objective.limits_of_difference
    return not any(
        _decides(
            differences.supposed(
                mean=min(max(mean, low), high), deviation=0.0, pairs=_MANY_PAIRS, examples=differences.examples.count
            ),
            margin,
            confidence,
            len(differences.values) + 1,
        )
        for mean in (these.low, nearest, these.high)
    )


def _decides(differences: PairedDifferences, margin: float, confidence: float, look: int | None = None) -> bool:
    """Whether the differences would lead to a verdict at the level of ``look``, by default of their number."""
    level = 1 - float(level_at(look or len(differences.values), 1 - confidence))
    return conclude(differences.decisive.interval(level), margin) is not Conclusion.UNKNOWN
