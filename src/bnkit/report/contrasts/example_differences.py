"""How the differences between two networks' scores vary over the test examples. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from bnkit.intervals.crossed_effects import (
    CrossedInterval,
    ExampleSpread,
    example_spread,
    interval_for_new_examples,
    largest_spread,
    most_discordant,
)
from bnkit.report.run_outcomes import RunOutcome, fewest, interval_over_seeds

if TYPE_CHECKING:
    from numpy.typing import NDArray


def example_differences(pairs: Sequence[tuple[RunOutcome, RunOutcome]]) -> NDArray[Any] | None:
    """The differences second − first, (pairs, test examples), of the pairs for which both runs recorded scores per example.

    If test sets of several sizes occur, only the pairs with the most frequent size. For right and wrong answers: int8, −1, 0 or 1.
    """
    import numpy as np

    rows = [row for first, second in pairs if (row := _difference(first, second)) is not None]
    if not rows:
        return None
    sizes = [len(row) for row in rows]
    return np.stack([row for row in rows if len(row) == max(sizes, key=sizes.count)])


def spread_over_examples(pairs: Sequence[tuple[RunOutcome, RunOutcome]]) -> ExampleSpread | None:
    """How the differences vary over the test examples.

    If no pair recorded scores per example, an upper bound that follows from the accuracies. None if those are not known either,
    or if the metric is not a mean over examples.
    """
    differences = example_differences(pairs)
    if differences is not None:
        return example_spread(differences, single_answers=differences.dtype.kind == "i")
    answers = fewest(outcome.answers for pair in pairs for outcome in pair)
    if answers is None or not pairs[0][0].objective.is_accuracy:
        return None
    discordant = fmean(most_discordant(first.test, second.test) for first, second in pairs)
    return largest_spread(fmean(second.test - first.test for first, second in pairs), discordant, answers)


def mean_for_new_examples(runs: Sequence[RunOutcome]) -> CrossedInterval | None:
    """The mean score of ``runs`` of one network on the test set, with its 95 % interval for new test examples.

    None if the scores per example are not known.
    """
    import numpy as np

    ended = [outcome for outcome in runs if outcome.final is not None]
    these = interval_over_seeds(ended)
    scores = [recorded.moving_average for outcome in ended if (recorded := outcome.record.example_scores) is not None]
    if these is None or not scores:
        return None
    sizes = [len(row) for row in scores]
    rows = [row.astype(float) for row in scores if len(row) == max(sizes, key=sizes.count)]
    spread, objective = example_spread(np.stack(rows), single_answers=False), ended[0].objective
    values, limits = [outcome.test for outcome in ended], objective.limits
    return None if spread is None else interval_for_new_examples(values, spread, these, limits=limits)


def _difference(first: RunOutcome, second: RunOutcome) -> NDArray[Any] | None:
    """The differences per example, (test examples,); None if one run lacks the scores, or they belong to other examples."""
    import numpy as np

    scores = [outcome.record.example_scores for outcome in (first, second)]
    if scores[0] is None or scores[1] is None or first.run.data_digest != second.run.data_digest:
        return None
    before, after = scores[0].moving_average, scores[1].moving_average
    if before.shape != after.shape:
        return None
    dtype = np.int8 if before.dtype == after.dtype == bool else np.float64
    difference: NDArray[Any] = np.subtract(after, before, dtype=dtype)
    return difference
