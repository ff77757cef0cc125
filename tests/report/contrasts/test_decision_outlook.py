"""What would decide where nothing is decided: pairs, test examples, or both."""

from __future__ import annotations

import numpy as np
import pytest

from bnkit.intervals.crossed_effects import example_spread
from bnkit.intervals.interval import Conclusion, conclude
from bnkit.intervals.sequential import conclusion_after_looks
from bnkit.report.contrasts.decision_outlook import decision_outlook, is_limited_by_examples
from bnkit.report.contrasts.paired_differences import PairedDifferences
from bnkit.report.objective_metric import Objective

MARGIN = 0.01


def _differences(pairs, examples, gain, discordant, seeds=0.0):
    """Right and wrong answers: the examples that differ are the same for all pairs; the mean of the pairs varies by ``seeds``."""
    rows = np.zeros((pairs, examples), np.int8)
    better = round(examples * (discordant + gain) / 2)
    worse = round(examples * (discordant - gain) / 2)
    rows[:, :better], rows[:, better : better + worse] = 1, -1
    shift = np.resize([seeds, -seeds], pairs) if pairs % 2 == 0 else np.resize([seeds, -seeds, 0.0], pairs)
    values = tuple((rows.mean(1) + shift).tolist())
    return PairedDifferences(values, examples, Objective(), example_spread(rows, single_answers=True))


def _outlook(differences):
    pairs = len(differences.values)
    return decision_outlook(differences, range(3, pairs + 1), MARGIN, 0.95)


# pairs, examples, gain, discordant, spread of the seeds
TOO_FEW = {
    "a gain, few examples": (6, 200, 0.03, 0.1, 0.002),
    "nothing, few examples": (6, 300, 0.0, 0.04, 0.001),
    "no answer differs": (8, 40, 0.0, 0.0, 0.0),
}
ENOUGH = {
    "the seeds vary": (6, 10_000, 0.012, 0.04, 0.03),
    "a gain that a few more pairs show": (6, 2000, 0.04, 0.1, 0.05),
}


@pytest.mark.parametrize("name", TOO_FEW)
def test_no_number_of_seeds_makes_up_for_too_few_test_examples(name):
    differences = _differences(*TOO_FEW[name])
    found = _outlook(differences)
    assert found.pairs is None
    assert is_limited_by_examples(differences, MARGIN, 0.95)
    pairs = found.pairs_then
    mean, deviation = np.mean(differences.values), np.std(differences.values, ddof=1)
    # With so many test examples and pairs there is a verdict; with a tenth fewer examples there is none.
    for examples, expected in ((found.examples, True), (int(0.88 * found.examples), False)):
        then = differences.supposed(mean=mean, deviation=deviation, pairs=pairs, examples=examples)
        verdict = conclusion_after_looks(then.decisive, range(3, pairs + 1), MARGIN)
        assert (verdict is not Conclusion.UNKNOWN) is expected


@pytest.mark.parametrize("name", ENOUGH)
def test_where_seeds_decide_no_more_examples_are_asked_for(name):
    differences = _differences(*ENOUGH[name])
    assert conclude(differences.decisive.interval(0.95), MARGIN) is Conclusion.UNKNOWN
    found = _outlook(differences)
    assert found.pairs > 6
    assert not is_limited_by_examples(differences, MARGIN, 0.95)


def test_a_mean_that_few_seeds_leave_open_is_not_given_up():
    """At the mean itself no seeds would decide; but the seeds vary so much that it may be another."""
    differences = _differences(6, 300, 0.0, 0.04, 0.03)
    assert _outlook(differences).pairs is None
    assert not is_limited_by_examples(differences, MARGIN, 0.95)


def test_supposed_differences_are_those_of_such_runs():
    """Four times the examples, of which the same shares differ: as if they had been recorded."""
    few, many = _differences(6, 200, 0.03, 0.1, 0.01), _differences(6, 800, 0.03, 0.1, 0.01)
    supposed = few.supposed(mean=0.03, deviation=np.std(few.values, ddof=1), pairs=6, examples=800)
    assert supposed.answers == 800
    for confidence in (0.95, 0.99):
        found, expected = (each.decisive.interval(confidence) for each in (supposed, many))
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_two_pairs_have_no_outlook():
    assert decision_outlook(_differences(2, 200, 0.03, 0.1), (2,), MARGIN, 0.95) is None


def test_without_scores_of_examples_only_pairs_are_estimated():
    values = (0.01, 0.03, -0.02, 0.01)
    found = _outlook(PairedDifferences(values, None, Objective("own", True, False)))
    assert found.pairs > 4 and found.examples is None
