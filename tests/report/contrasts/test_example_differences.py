"""What examples scored, set against each other: what is recorded, what is not, and what cannot be paired."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bnkit.experiments.experiment import TaskIdentity
from bnkit.experiments.plan import Run
from bnkit.report.contrasts.example_differences import example_differences, spread_over_examples
from bnkit.report.run_outcomes import RunOutcome, outcomes
from tests.report.fake_runs import fake_plan, fake_results, finished_record, scored_record

FIRST, SECOND = [True, True, False, False], [True, False, True, True]


def _pairs(outcome, **changes) -> list[tuple[RunOutcome, RunOutcome]]:
    found = outcomes(fake_results(fake_plan(**changes), outcome))
    by_network = {key: [o for o in found if o.run.network.key == key] for key in ("no_batch_norm", "batch_norm")}
    return list(zip(*by_network.values(), strict=True))


def _scored(run: Run, dtype=bool):
    return scored_record(np.array(FIRST if run.network.key == "no_batch_norm" else SECOND, dtype))


def test_right_and_wrong_answers():
    found = example_differences(_pairs(_scored))
    assert found.dtype == np.int8
    assert found.tolist() == [[0, -1, 1, 1]] * 3
    spread = spread_over_examples(_pairs(_scored))
    assert (spread.count, spread.recorded, spread.adjusted is not None) == (4, 3, True)


def test_shares_of_right_answers():
    found = example_differences(_pairs(lambda run: _scored(run, float)))
    assert found.dtype == np.float64
    assert found.tolist() == [[0, -1, 1, 1]] * 3
    assert spread_over_examples(_pairs(lambda run: _scored(run, float))).adjusted is None


def test_pairs_that_did_not_record_it_are_left_out():
    def outcome(run):
        return (
            finished_record(0.5, test_answers=4) if (run.seed, run.network.key) == (1, "batch_norm") else _scored(run)
        )

    assert len(example_differences(_pairs(outcome))) == 2
    assert spread_over_examples(_pairs(outcome)).recorded == 2


def test_where_test_sets_differ_in_size_the_most_frequent_one_counts():
    def outcome(run):
        return scored_record(np.ones(7, bool)) if run.seed == 0 else _scored(run)

    assert example_differences(_pairs(outcome)).shape == (2, 4)


def test_other_data_have_other_examples():
    pairs = [
        (first, replace(second, run=replace(second.run, data_digest="other"))) for first, second in _pairs(_scored)
    ]
    assert example_differences(pairs) is None


def test_two_runs_with_other_numbers_of_examples_are_no_pair():
    def outcome(run):
        return scored_record(np.ones(7, bool)) if run.network.key == "batch_norm" else _scored(run)

    assert example_differences(_pairs(outcome)) is None


def test_without_records_the_accuracies_bound_it():
    pairs = _pairs(lambda run: finished_record(0.9 if run.network.key == "batch_norm" else 0.8, test_answers=1000))
    spread = spread_over_examples(pairs)
    # At most all wrong answers are of other examples: 0.1 + 0.2.
    assert spread.variance == pytest.approx(0.3 - 0.1**2)
    assert (spread.count, spread.recorded) == (1000, 0)


@pytest.mark.parametrize(
    "changes", [{}, {"task": TaskIdentity(metric="nets.py:own#0123")}], ids=["no count of answers", "another metric"]
)
def test_where_nothing_is_known_there_is_no_spread(changes):
    def outcome(run):
        return finished_record(0.5, test_metric=0.5, test_answers=None if not changes else 100)

    assert spread_over_examples(_pairs(outcome, **changes)) is None
