"""What two networks scored on each test example, run by run: how their differences vary over the examples. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from bnkit.intervals.crossed import ExampleSpread, example_spread, largest_spread, most_discordant
from bnkit.report.outcomes import RunOutcome, fewest

if TYPE_CHECKING:
    from numpy.typing import NDArray


def example_differences(pairs: Sequence[tuple[RunOutcome, RunOutcome]]) -> NDArray[Any] | None:
    """(pairs, test examples), second − first, of the pairs of which both runs recorded what each example scored.

    Where those are of test sets of several sizes, of the one that most pairs have. Int8 of right and wrong answers: −1, 0, 1.
    """
    import numpy as np

    rows = [row for first, second in pairs if (row := _difference(first, second)) is not None]
    if not rows:
        return None
    sizes = [len(row) for row in rows]
    return np.stack([row for row in rows if len(row) == max(sizes, key=sizes.count)])


def spread_over_examples(pairs: Sequence[tuple[RunOutcome, RunOutcome]]) -> ExampleSpread | None:
    """How the differences vary over the test examples.

    Where no pair recorded what each example scored, the most that the accuracies allow; None where those are not known either, or
    networks are judged by something that is no mean over examples.
    """
    differences = example_differences(pairs)
    if differences is not None:
        return example_spread(differences, single_answers=differences.dtype.kind == "i")
    answers = fewest(outcome.answers for pair in pairs for outcome in pair)
    if answers is None or not pairs[0][0].objective.is_accuracy:
        return None
    discordant = fmean(most_discordant(first.test, second.test) for first, second in pairs)
    return largest_spread(fmean(second.test - first.test for first, second in pairs), discordant, answers)


def _difference(first: RunOutcome, second: RunOutcome) -> NDArray[Any] | None:
    """(test examples,); None where one of them is not recorded, or they are of other examples."""
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
