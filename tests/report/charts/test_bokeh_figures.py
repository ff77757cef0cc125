"""What is drawn is what was recorded."""

from __future__ import annotations

import pytest
from bokeh.models import ColumnDataSource, Whisker

from bnkit.report.charts.bokeh_figures import figures
from tests.report.fake_runs import diverged_record, fake_plan, fake_results, finished_record


def _sources(plot, key):
    return [
        {name: list(column) for name, column in renderer.data_source.data.items()}
        for renderer in plot.renderers
        if key in renderer.data_source.data and renderer.glyph.__class__.__name__ == "Line"
    ]


def _drawn(outcome, **changes):
    planned = fake_plan(**changes)
    return figures(fake_results(planned, outcome))


def test_a_curve_is_the_mean_over_the_seeds_and_its_band_their_range():
    plot = _drawn(lambda run: finished_record(0.1, 0.5 + run.seed / 10))["Test accuracy, lr 0.1"]
    without, with_ = _sources(plot, "epoch")
    assert without == with_
    assert without["epoch"] == [1, 2]
    assert without["mean"] == [pytest.approx(0.1), pytest.approx(0.6)]
    assert (without["low"], without["high"], without["n"]) == ([0.1, 0.5], [0.1, 0.7], [3, 3])


def test_over_the_learning_rate_there_are_intervals_of_what_finished():
    def outcome(run):
        return diverged_record(0.3) if run.settings.lr == 1.0 and run.seed else finished_record(0.4 + run.seed / 10)

    plot = _drawn(outcome, grid={"lr": [0.1, 1.0]})["Test accuracy over the learning rate"]
    without, _ = _sources(plot, "lr")
    assert without["lr"] == [0.1, 1.0]
    assert without["n"] == [3, 1]
    assert without["mean"] == [pytest.approx(0.5), pytest.approx(0.4)]
    # t(0.975, 2) = 4.302653; the deviation of 0.4, 0.5, 0.6 is 0.1. One value has no interval.
    assert without["low"] == [pytest.approx(0.5 - 4.302653 * 0.1 / 3**0.5), pytest.approx(0.4)]
    whiskers = [layout for layout in plot.center if isinstance(layout, Whisker)]
    assert len(whiskers) == 2
    assert isinstance(whiskers[0].source, ColumnDataSource)


def test_the_whiskers_are_never_shorter_than_so_many_answers_allow():
    plot = _drawn(lambda run: finished_record(1.0, test_answers=100), grid={"lr": [0.1, 1.0]})[
        "Test accuracy over the learning rate"
    ]
    without, _ = _sources(plot, "lr")
    assert without["low"] == [pytest.approx(0.9630, abs=1e-4)] * 2  # Wilson's, of 100 of 100
    assert without["high"] == [1.0, 1.0]


def test_one_learning_rate_needs_no_picture_over_it():
    assert list(_drawn(lambda run: finished_record(0.5))) == ["Test accuracy, lr 0.1", "Training loss, lr 0.1"]


def test_each_setting_has_pictures_of_its_own():
    titles = list(_drawn(lambda run: finished_record(0.5), grid={"lr": [0.1], "trainset": ["normal", "not_normal"]}))
    assert titles == [
        "Test accuracy, lr 0.1, trainset normal", "Training loss, lr 0.1, trainset normal",
        "Test accuracy, lr 0.1, trainset not_normal", "Training loss, lr 0.1, trainset not_normal",
    ]  # fmt: skip


def test_nothing_recorded_is_drawn_as_nothing():
    assert _sources(_drawn(lambda run: None)["Test accuracy, lr 0.1"], "epoch")[0]["epoch"] == []
