"""Which way is better, and how figures read."""

from __future__ import annotations

import pytest

from bnkit.experiments.experiment import TaskIdentity
from bnkit.intervals.interval import Conclusion, Interval
from bnkit.report.objective_metric import Objective
from tests.report.fake_runs import epoch

ACCURACY = Objective()
ERROR = Objective("mean_absolute_error", minimize=True, is_accuracy=False)
SCORE = Objective("r2_score", is_accuracy=False)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (TaskIdentity(), ACCURACY),
        (TaskIdentity(loss="mse_loss", metric="r2_score"), SCORE),
        (TaskIdentity(metric="mean_absolute_error", goal="minimize"), ERROR),
        (TaskIdentity(metric="my/nets.py:top_5#0123456789ab"), Objective("top_5", is_accuracy=False)),
        (TaskIdentity(metric="package.module.f1#0123456789ab"), Objective("f1", is_accuracy=False)),
        (TaskIdentity(metric="nets.py:accuracy#0123456789ab"), Objective("accuracy", is_accuracy=False)),
    ],
)
def test_it_follows_from_the_task(task, expected):
    assert Objective.of(task) == expected


def test_where_an_epoch_has_it():
    figures = epoch(1, 0.5, test_accuracy_population=0.6, metric=1.0, validation_metric=2.0, test_metric=3.0,
                    test_metric_population=4.0)  # fmt: skip
    assert [part(figures) for part in (ACCURACY.training, ACCURACY.validation, ACCURACY.test, ACCURACY.population)] == [
        0.52, 0.5, 0.5, 0.6,
    ]  # fmt: skip
    assert [part(figures) for part in (SCORE.training, SCORE.validation, SCORE.test, SCORE.population)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("objective", "interval", "expected"),
    [
        (ACCURACY, (0.02, 0.01, 0.03), Conclusion.GAIN),
        (ACCURACY, (0.0, -0.005, 0.005), Conclusion.NOTHING),
        (ERROR, (0.02, 0.01, 0.03), Conclusion.LOSS),
        (ERROR, (-0.02, -0.03, -0.01), Conclusion.GAIN),
        (ERROR, (0.0, -0.005, 0.005), Conclusion.UNKNOWN),  # no margin is known
        (SCORE, (-0.02, -0.03, -0.01), Conclusion.LOSS),
    ],
)
def test_what_a_difference_says(objective, interval, expected):
    assert objective.conclude(Interval(*interval, n=3)) is expected


@pytest.mark.parametrize(
    ("objective", "best_first"),
    [(ACCURACY, [0.9, 0.1, None]), (ERROR, [0.1, 0.9, None]), (SCORE, [0.5, -3.0, None])],
)
def test_the_best_comes_first_and_nothing_last(objective, best_first):
    assert sorted([*best_first[1:], best_first[0]], key=objective.order) == best_first
    assert objective.better(best_first[0], best_first[1])
    assert not objective.better(best_first[1], best_first[0])
    assert not objective.better(None, best_first[1])


@pytest.mark.parametrize(
    ("objective", "first", "second", "expected"),
    [
        (ACCURACY, 0.5, 0.511, True),
        (ACCURACY, 0.5, 0.509, False),
        (ERROR, 200.0, 201.0, False),
        (ERROR, 0.2, 0.21, True),
    ],
)
def test_when_two_values_would_report_another_result(objective, first, second, expected):
    assert objective.disagree(first, second) is expected


def test_how_figures_read():
    interval = Interval(-0.012, -0.02, -0.004, 5)
    assert ACCURACY.difference(interval) == "−1.2 points [−2.0, −0.4], n = 5"
    assert ERROR.difference(interval) == "−0.012 [−0.02, −0.004], n = 5"
    assert ERROR.difference(Interval(1234.5, None, None, 1)) == "+1.23e+03, n = 1, too few for an interval"
    assert (ACCURACY.text(0.98765), ERROR.text(-0.98765)) == ("0.988", "−0.9877")
