"""Intervals that allow for several looks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bnkit.experiments.until_settings import ContrastLooks, Look, StoppingRule
from bnkit.intervals.crossed_effects import example_spread
from bnkit.report.added_seeds import SeedGrowth
from bnkit.report.answer_text import Answer
from bnkit.report.contrasts.compare_networks import contrasts
from bnkit.report.contrasts.paired_differences import PairedDifferences
from bnkit.report.contrasts.repeated_looks import every_pair, intervals_after_looks
from bnkit.report.objective_metric import Objective
from tests.report.fake_runs import fake_plan, fake_results, scored_record


def _differences(pairs):
    rows = np.zeros((pairs, 200), np.int8)
    rows[:, :20] = 1
    rows[np.arange(pairs), 100 + np.arange(pairs)] = -1
    return PairedDifferences(tuple(rows.mean(1).tolist()), 200, Objective(), example_spread(rows, single_answers=True))


@pytest.mark.parametrize("pairs", [1, 2, 3, 5])
def test_fewer_than_three_pairs_have_no_ends_and_what_is_recorded_is_known(pairs):
    (both,) = intervals_after_looks({"best": _differences(pairs)}, every_pair(pairs), 0.95).values()
    assert (both.new.n, both.new.examples, both.new.recorded) == (pairs, 200, pairs)
    assert both.new.mean == both.these.mean
    assert (both.new.low is None, both.these.low is None) == (pairs < 3, pairs < 3)


def test_without_scores_of_examples_there_is_no_interval_for_new_ones():
    known = PairedDifferences((0.1, 0.2, 0.1), None, Objective("own", True, False))
    assert intervals_after_looks({"best": known}, (3,), 0.95)["best"].new is None


def test_a_second_look_at_two_pairs_does_not_say_that_scores_were_not_recorded():
    results = fake_results(fake_plan(seeds=2), lambda run: scored_record(np.arange(50) > 3))
    assert "recorded" not in str(Answer.of(replace(results, looks=(1,))))


def test_after_a_verdict_its_interval_is_still_the_one_for_new_examples():
    """Another contrast asked for seeds 3 and 4; those of the verdict are the first three."""
    before = np.arange(400) < 200

    def outcome(run):
        return scored_record(np.arange(400) < 240 + run.seed if run.network.key == "batch_norm" else before)

    three, five = (fake_results(fake_plan(seeds=seeds), outcome) for seeds in (3, 5))
    (pairs,) = contrasts(replace(three, looks=(3,)))
    decided = pairs.best.test_new_examples
    look = Look(3, decided.mean, decided.low, decided.high, "gain")
    known = ContrastLooks("no_batch_norm", "batch_norm", {}, 0.1, 0.1, (look,))
    growth = SeedGrowth(StoppingRule(), (five.plan.runs,), (known,), "decided", 10)
    (contrast,) = contrasts(replace(five, growth=growth))
    assert contrast.best.test == pairs.best.test
    assert contrast.best.test_new_examples == replace(decided, from_examples=0.0, counted=None)
    assert "95 % interval for new test examples" in Answer.of(replace(five, growth=growth)).headline
