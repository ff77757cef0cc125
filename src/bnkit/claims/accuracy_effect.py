"""Effects that are sums of accuracies of one seed's runs, and how they vary over the test examples. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from bnkit.claims.claim import Evidence
from bnkit.intervals.crossed_effects import ExampleSpread, example_spread
from bnkit.report.run_outcomes import RunOutcome

if TYPE_CHECKING:
    from numpy.typing import NDArray


class On(Enum):
    """What an accuracy is measured on."""

    TEST = "test"  # with the moving average
    TEST_BY_POPULATION = "test by population statistics"
    TRAINING = "training"  # the images that the network was trained on, evaluated like the test set


class Term(NamedTuple):
    """One accuracy of an effect.

    Attributes:
        sign: 1.0 if it is added, −1.0 if it is subtracted.
        runs: The run of each seed.
        on: What it is measured on.
    """

    sign: float
    runs: Mapping[int, RunOutcome]
    on: On = On.TEST


@dataclass(frozen=True)
class AccuracyEffect:
    """An effect that is a sum of accuracies with signs; a seed with an unfinished run is left out.

    Attributes:
        terms: Finds the accuracies in the evidence.
    """

    terms: Callable[[Evidence], Sequence[Term]]

    def __call__(self, evidence: Evidence) -> dict[int, float]:
        """The effect of every seed."""
        terms, found = self.terms(evidence), {}
        for seed in terms[0].runs:
            values = [_accuracy(term.runs.get(seed), term.on) for term in terms]
            known = [value for value in values if value is not None]
            if len(known) == len(terms):
                found[seed] = sum(term.sign * value for term, value in zip(terms, known, strict=True))
        return found

    def spread(self, evidence: Evidence) -> ExampleSpread | None:
        """How the effect varies over the test examples; None if no seed recorded the answers of all its runs.

        The images of the training part count as given: which of them are answered right is not recorded.
        """
        import numpy as np

        terms = [term for term in self.terms(evidence) if term.on is not On.TRAINING]
        rows = []
        for seed in self(evidence):
            scores = [_scores(term.runs[seed], term.on) for term in terms]
            known = [row for row in scores if row is not None]
            if known and len(known) == len(terms) and len({len(row) for row in known}) == 1:
                rows.append(np.sum([term.sign * row for term, row in zip(terms, known, strict=True)], axis=0))
        if not rows or len({len(row) for row in rows}) > 1:
            return None
        return example_spread(np.stack(rows), single_answers=False)


def _accuracy(outcome: RunOutcome | None, on: On) -> float | None:
    if outcome is None or outcome.final is None:
        return None
    match on:
        case On.TEST:
            return outcome.test
        case On.TEST_BY_POPULATION:
            return outcome.final.test_accuracy_population
        case On.TRAINING:
            return outcome.fit


def _scores(outcome: RunOutcome, on: On) -> NDArray[Any] | None:
    """(examples,): the share of right answers of each test example."""
    known = outcome.record.example_scores
    if known is None:
        return None
    scores = known.moving_average if on is On.TEST else known.population
    return None if scores is None else scores.astype(float)
