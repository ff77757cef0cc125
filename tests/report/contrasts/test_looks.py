"""Intervals that allow for several looks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bnkit.intervals.crossed_effects import example_spread
from bnkit.report.answer import Answer
from bnkit.report.contrasts.looks import every_pair, intervals_after_looks
from bnkit.report.contrasts.paired_differences import PairedDifferences
from bnkit.report.objective import Objective
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
