"""Effects that are sums of accuracies of one seed's runs, and how they vary over the test examples. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from bnkit.claims.claim import Evidence
from bnkit.claims.diverged_seeds import CountedSeed, Lost, direction_of, divergence_of_seeds
from bnkit.intervals.crossed_effects import ExampleSpread, example_spread
from bnkit.report.contrasts.diverged_runs import Divergence
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
        terms, effects = self.terms(evidence), {}
        for seed in terms[0].runs:
            values = [_accuracy(term.runs.get(seed), term.on) for term in terms]
            known = [value for value in values if value is not None]
            if len(known) == len(terms):
                effects[seed] = sum(term.sign * value for term, value in zip(terms, known, strict=True))
        return effects

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

    def diverged(self, evidence: Evidence) -> Divergence | None:
        """What diverged: such a run counts as the best constant answer, wherever its accuracy is measured; None if nothing did."""
        terms = self.terms(evidence)
        ended = [
            seed
            for seed in terms[0].runs
            if all(seed in term.runs and term.runs[seed].record.is_complete for term in terms)
        ]
        known = [c for seed in ended for term in terms if (c := term.runs[seed].constant) is not None]
        counts_as = fmean(known) if known else 0.0
        usual = [
            fmean([v for run in term.runs.values() if (v := _accuracy(run, term.on)) is not None] or [counts_as])
            for term in terms
        ]
        seeds = []
        for seed in ended:
            value, lost = 0.0, dict[str, Lost]()
            for term, mean in zip(terms, usual, strict=True):
                run, accuracy = term.runs[seed], _accuracy(term.runs[seed], term.on)
                if run.final is None:
                    before = lost.get(run.run.run_id, Lost(0.0, 0.0))
                    shift = before.shift + term.sign * (counts_as - mean)
                    lost[run.run.run_id] = Lost(before.weight + term.sign, shift)
                elif accuracy is None:
                    break  # it was not measured
                value += term.sign * (counts_as if accuracy is None else accuracy)
            else:
                seeds.append(CountedSeed(value, not lost, direction_of(lost.values())))
        return divergence_of_seeds(seeds, counts_as)


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
