from __future__ import annotations

import pytest

from bnkit.report.moving_average_gap import population_gaps
from tests.report.fake_runs import fake_plan, fake_results, finished_record


def _population(by_seed):
    def outcome(run):
        if run.network.key == "no_batch_norm":
            return finished_record(0.8)
        return finished_record(0.8, test_accuracy_population=by_seed[run.seed])

    return outcome


def test_a_drift_of_more_than_the_margin_is_found_with_its_widest_run():
    planned = fake_plan()
    (drift,) = population_gaps(fake_results(planned, _population((0.805, 0.87, 0.795))))
    assert (drift.network, drift.lr, drift.apart, drift.runs) == ("batch_norm", 0.1, 1, 3)
    assert drift.widest == (0.8, 0.87)
    assert drift.population == pytest.approx((0.805 + 0.87 + 0.795) / 3)
    assert drift.moving_average == pytest.approx(0.8)


def test_within_the_margin_there_is_none():
    planned = fake_plan()
    assert population_gaps(fake_results(planned, _population((0.805, 0.795, 0.8)))) == ()


def test_population_statistics_may_be_the_worse_ones():
    planned = fake_plan()
    (drift,) = population_gaps(fake_results(planned, _population((0.7, 0.7, 0.7))))
    assert drift.apart == 3
