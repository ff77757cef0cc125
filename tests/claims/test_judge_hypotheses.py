"""Verdicts by simulation: at the stated rate, and intervals at theirs."""

from __future__ import annotations

import numpy as np
import pytest

from bnkit.claims.judge_hypotheses import ERROR_RATE, Decision, HypothesisTest, Sample, judge, standard_error_of
from bnkit.intervals.alpha_spending import anytime_p_value
from bnkit.intervals.crossed_effects import ExampleSpread, example_spread, interval_for_new_examples, one_sided_p_value
from bnkit.intervals.proportions import difference_interval
from bnkit.intervals.student import mean_interval
from tests.random_examples import examples

HOLDS, NOT, OPEN = Decision.HOLDS, Decision.DOES_NOT_HOLD, Decision.NOT_ENOUGH_DATA


def _hypothesis_test(values, matters=0.5, **more):
    return HypothesisTest(dict(enumerate(values)), matters, **more)


def _three_errors(rounds, rate=ERROR_RATE):
    """What a rate of errors is at most, seen in so many rounds, but for once in a thousand times."""
    return rate + 3 * (rate * (1 - rate) / rounds) ** 0.5


@pytest.mark.slow
def test_of_many_claims_without_an_effect_none_holds_but_once_in_twenty_tables():
    """Twenty claims that are wrong by a hair: the worst case for "holds"."""
    generator, rounds = np.random.default_rng(0), examples(600)
    wrong = sum(
        any(
            verdict.decision is HOLDS
            for verdict in judge([_hypothesis_test(row, 0.0) for row in generator.normal(0, 1, (20, 5))])
        )
        for _ in range(rounds)
    )
    assert wrong / rounds <= _three_errors(rounds)
    assert wrong > 0  # the procedure is not idle


@pytest.mark.slow
def test_of_many_claims_with_an_effect_that_matters_none_is_refused_but_once_in_twenty_tables():
    generator, rounds = np.random.default_rng(1), examples(400)
    wrong = sum(
        any(
            verdict.decision is NOT
            for verdict in judge([_hypothesis_test(row, 5.0) for row in generator.normal(5.0, 1, (20, 5))])
        )
        for _ in range(rounds)
    )
    assert wrong / rounds <= _three_errors(rounds)


@pytest.mark.slow
def test_true_and_untrue_effects_side_by_side_are_decided_right():
    """Ten that hold by eight deviations, ten that do not: hardly ever wrong, and nearly always decided."""
    generator, rounds = np.random.default_rng(2), 100
    right = wrong = 0
    for _ in range(rounds):
        effects = np.concatenate([generator.normal(8, 1, (10, 5)), generator.normal(0, 1, (10, 5))])
        decisions = [verdict.decision for verdict in judge([_hypothesis_test(row, 8.0) for row in effects])]
        expected = [HOLDS] * 10 + [NOT] * 10
        mistaken = any(decision not in (OPEN, meant) for decision, meant in zip(decisions, expected, strict=True))
        wrong += mistaken
        right += sum(decision is meant for decision, meant in zip(decisions, expected, strict=True))
    assert wrong / rounds <= _three_errors(rounds)
    assert right / (20 * rounds) > 0.9


@pytest.mark.parametrize("n", [3, 5, 20])
def test_intervals_cover_at_their_rate(n):
    generator, rounds = np.random.default_rng(n), 2000
    intervals = [mean_interval(list(row)) for row in generator.normal(0.3, 2.0, (rounds, n))]
    covered = sum(interval.low <= 0.3 <= interval.high for interval in intervals) / rounds
    assert covered == pytest.approx(0.95, abs=3 * (0.95 * 0.05 / rounds) ** 0.5)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_pairs_are_not_enough_whatever_they_say(n):
    (verdict,) = judge([_hypothesis_test([100.0] * n)])
    assert (verdict.decision, verdict.p_holds, verdict.p_does_not) == (OPEN, None, None)
    assert (verdict.effect is None) == (n == 0)


def test_claims_without_data_do_not_count_among_those_that_are_asked():
    sure = _hypothesis_test([0.9, 1.0, 1.1, 0.95, 1.05])
    alone, beside = judge([sure])[0], judge([_hypothesis_test([1.0]), sure, _hypothesis_test([])])[1]
    assert alone == beside


def test_an_effect_that_is_there_and_too_small_to_matter_does_not_hold():
    (verdict,) = judge([_hypothesis_test([0.010, 0.011, 0.009, 0.010, 0.0105], matters=0.5)])
    assert verdict.p_holds < 0.05
    assert verdict.decision is NOT


def test_no_worse_is_shown_above_less_than_nothing():
    values = [-0.001, 0.001, 0.0, 0.0005, -0.0005]
    assert judge([_hypothesis_test(values, matters=-0.01, nothing=-0.01)])[0].decision is HOLDS
    assert judge([_hypothesis_test([v - 0.03 for v in values], matters=-0.01, nothing=-0.01)])[0].decision is NOT


def test_equal_counts_are_not_taken_for_certainty():
    # By hand: deviation 1 / sqrt(12) = 0.288675, error 0.288675 / sqrt(5) = 0.129099, t(0.975, 4) = 2.776445.
    (verdict,) = judge([_hypothesis_test([1.0] * 5, 1.0, resolution=1.0)])
    assert verdict.effect.low == pytest.approx(1 - 2.776445 * 0.129099, abs=1e-5)
    assert 0 < verdict.p_holds < 0.05
    # Equal values that are not counted have no deviation at all.
    (sure,) = judge([_hypothesis_test([1.0] * 5, 0.5)])
    assert (sure.decision, sure.p_holds) == (HOLDS, 0.0)
    (nothing,) = judge([_hypothesis_test([0.0] * 5, 0.5)])
    assert nothing.decision is NOT


@pytest.mark.parametrize(
    ("answers", "decision"),
    [(None, NOT), (20, OPEN), (50, OPEN), (100_000, NOT)],
    ids=["unknown", "20", "50", "100,000"],
)
def test_equal_accuracies_decide_nothing_on_few_test_answers(answers, decision):
    """Five seeds of equal accuracies: by themselves they would show that the effect is below a point."""
    (verdict,) = judge([_hypothesis_test([0.0] * 5, 0.01, resolution=0.001, answers=answers)])
    assert verdict.decision is decision
    if answers == 20:
        assert verdict.effect.high == pytest.approx(1.959964 / 22)  # Agresti & Min (2005) with no discordant answer


def _crossed_table(generator, examples, differ):
    """Effects of 5 seeds on ``examples`` test examples, whose true mean is 0 for new ones; ``differ`` of them are of one sign."""
    of_examples = generator.choice([-1.0, 0.0, 1.0], examples, p=[differ / 2, 1 - differ, differ / 2])
    rows = of_examples + 0.05 * generator.standard_normal((5, examples))
    return rows.mean(1), example_spread(rows, single_answers=False)


def test_effects_on_few_test_examples_are_judged_for_new_ones():
    """By the seeds alone, which agree on these examples, nearly every verdict would be wrong."""
    generator, rounds = np.random.default_rng(3), examples(400)
    wrong = [0, 0]
    for _ in range(rounds):
        values, spread = _crossed_table(generator, 200, 0.2)
        for place, known in enumerate((spread, None)):
            (verdict,) = judge([_hypothesis_test(values, 0.0, examples=known)])
            wrong[place] += verdict.decision is not OPEN
    # Both questions are asked at the value that is true: each is wrong in 2.5 %.
    assert wrong[0] / rounds <= _three_errors(rounds)
    assert wrong[1] / rounds > 0.5


def test_the_interval_of_an_effect_is_that_for_new_examples_and_ends_where_its_p_value_says():
    values, spread = _crossed_table(np.random.default_rng(0), 500, 0.1)
    (verdict,), (narrow,) = (judge([_hypothesis_test(values, 1.0, examples=known)]) for known in (spread, None))
    low, high = verdict.effect.low, verdict.effect.high
    assert low < narrow.effect.low < narrow.effect.high < high
    (at_end,) = judge([_hypothesis_test(values, 1.0, examples=spread, nothing=low)])
    assert at_end.p_holds == pytest.approx(0.025, rel=1e-6)


def test_an_effect_for_new_examples_has_the_interval_of_a_comparison():
    """What the number of answers allows is a limit, and not a second part of the width."""
    effects = {0: 0.010, 1: 0.012, 2: 0.011, 3: 0.0105}
    values = list(effects.values())
    for answers, spread in ((400, ExampleSpread(400, 0.01, 4)), (400, ExampleSpread(400, 0.2, 4))):
        these = difference_interval(values, answers)
        expected = interval_for_new_examples(values, spread, these)
        (verdict,) = judge([HypothesisTest(effects, 0.01, answers=answers, examples=spread)])
        assert (verdict.effect.low, verdict.effect.high) == pytest.approx((expected.low, expected.high))


def test_an_earlier_look_is_judged_with_the_examples_and_answers_of_its_seeds():
    """The p value of each look follows from what was known then; the least, at its number of pairs, counts."""
    early, late = ExampleSpread(400, 0.5, 3), ExampleSpread(400, 0.0001, 5)
    effects = {0: 0.05, 1: 0.051, 2: 0.049, 3: -0.2, 4: 0.3}
    first = Sample({seed: effects[seed] for seed in range(3)}, 400, early)
    (verdict,) = judge([HypothesisTest(effects, 0.01, answers=400, looks=(first,), examples=late)])
    error = standard_error_of(mean_interval([0.05, 0.051, 0.049]))
    then = one_sided_p_value(0.05, error, 3, early)
    now = one_sided_p_value(0.05, standard_error_of(mean_interval(list(effects.values()))), 5, late)
    expected = anytime_p_value({3: then, 5: now})
    assert verdict.p_holds == pytest.approx(min(1.0, 2 * expected))
    assert expected < anytime_p_value({5: now})  # the first look counts
    # With the spread of the last look, the first would have been far more certain.
    assert one_sided_p_value(0.05, error, 3, late) < then / 10
