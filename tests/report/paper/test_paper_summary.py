"""The row that a paper has for each network and setting."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from bnkit.intervals.interval import Interval
from bnkit.report.answer_text import Answer
from bnkit.report.objective_metric import Objective
from bnkit.report.paper.latex_table import latex
from bnkit.report.paper.paper_summary import Difference, Summary, SummaryRow, summary_of
from tests.report.fake_runs import diverged_record, fake_plan, fake_results, finished_record

_GAIN = {"no_batch_norm": 0.80, "batch_norm": 0.90, "group_norm": 0.85}


def _accuracy(run, spread=0.01):
    return _GAIN[run.network.key] + spread * run.seed


def _summary(outcome=lambda run: finished_record(_accuracy(run)), **changes):
    results = fake_results(fake_plan(**changes), outcome)
    answer = Answer.of(results)
    return summary_of(results, answer.contrasts, answer.headline)


def test_a_row_has_the_mean_and_the_difference_to_the_baseline():
    baseline, network = _summary().rows
    assert (baseline.network, baseline.setting, baseline.n, baseline.failed) == ("no_batch_norm", {"lr": 0.1}, 3, 0)
    assert baseline.difference is None
    assert baseline.mean.mean == pytest.approx(0.81)
    assert network.difference.baseline == "no_batch_norm"
    assert network.difference.interval.mean == pytest.approx(0.1)
    assert network.difference.new_examples is None
    assert network.is_best is None  # of one learning rate none is chosen


def test_the_learning_rate_that_was_chosen_is_marked():
    better_at = {"no_batch_norm": 0.1, "batch_norm": 0.3}
    rows = _summary(
        lambda run: finished_record(_accuracy(run) - 0.05 * (run.settings.lr != better_at[run.network.key])),
        grid={"lr": [0.1, 0.3]},
    ).rows
    assert [(row.network, row.setting["lr"], row.is_best) for row in rows] == [
        ("no_batch_norm", 0.1, True),
        ("batch_norm", 0.1, False),
        ("no_batch_norm", 0.3, False),
        ("batch_norm", 0.3, True),
    ]
    # The difference is at the same learning rate.
    assert [row.difference and round(row.difference.interval.mean, 6) for row in rows] == [None, 0.05, None, 0.15]


def test_every_network_is_set_against_the_baseline_of_several():
    summary = _summary(networks=tuple(_GAIN))
    assert [
        row.difference and (row.difference.baseline, round(row.difference.interval.mean, 6)) for row in summary.rows
    ] == [
        None,
        ("no_batch_norm", 0.1),
        ("no_batch_norm", 0.05),
    ]
    assert summary.pairs == 3
    assert "for 3 pairs of networks at once (Holm)" in summary.table().note


def test_runs_that_were_lost_are_counted_and_in_no_mean():
    summary = _summary(lambda run: diverged_record(0.1) if run.seed == 0 else finished_record(_accuracy(run, 0.0)))
    assert [(row.n, row.failed, row.mean.mean) for row in summary.rows] == [(2, 1, 0.8), (2, 1, 0.9)]
    assert "failed" in summary.table().header


def test_a_network_of_which_no_run_finished():
    summary = _summary(lambda run: diverged_record(0.1) if run.network.key == "batch_norm" else finished_record(0.8))
    row = summary.rows[1]
    assert (row.n, row.failed, row.mean, row.difference.interval) == (0, 3, None, None)
    assert summary.table().rows[1][2:] == ("–", "–", "0", "3", "–", "–")


def test_settings_that_vary_tell_rows_apart():
    summary = _summary(grid={"lr": [0.1], "batch_size": [16, 64]})
    assert summary.keys == ("lr", "batch_size")
    assert [row.setting["batch_size"] for row in summary.rows] == [16, 16, 64, 64]


def test_the_values_are_plain_and_the_csv_has_the_same():
    summary = _summary()
    values = [dict(zip(summary.header(), row, strict=True)) for row in summary.values()]
    assert values[0]["baseline"] is None and values[0]["difference"] is None
    assert values[1]["difference"] == pytest.approx(0.1)
    assert (values[1]["difference_low"], values[1]["difference_high"]) == pytest.approx((0.1, 0.1), abs=1e-9)
    written = list(csv.DictReader(io.StringIO(summary.to_csv())))
    assert [float(row["mean"]) for row in written] == [row["mean"] for row in values]
    assert written[0]["difference"] == ""


_WITH_NEW_EXAMPLES = Summary(
    "made",
    "An answer.",
    Objective(),
    (),
    (
        SummaryRow("a", {}, Interval(0.8, 0.7, 0.9, 3), 0),
        SummaryRow("b", {}, None, 0, Difference("a", Interval(0.1, 0.05, 0.15, 3), Interval(0.1, 0.02, 0.18, 3))),
    ),
)


def test_the_interval_for_new_examples_has_a_column_where_it_is_known():
    assert _WITH_NEW_EXAMPLES.table().header[-1] == "for new examples"
    assert _WITH_NEW_EXAMPLES.table().rows[1][-1] == "[+2.0, +18.0]"
    assert _WITH_NEW_EXAMPLES.values()[1][-2:] == [0.02, 0.18]
    assert "for new examples" not in _summary().table().header


def test_intervals_whose_width_the_test_answers_set_are_marked():
    counted, rows = Interval(0.1, 0.02, 0.18, 3, counted=100), _WITH_NEW_EXAMPLES.rows
    summary = replace(
        _WITH_NEW_EXAMPLES,
        rows=(rows[0], replace(rows[1], difference=Difference("a", rows[1].difference.interval, counted))),
    )
    row = summary.table().rows[1]
    assert (row[-3], row[-1]) == ("[+5.0, +15.0]", "[+2.0, +18.0]†")
    assert "†: the number of test answers sets the width" in summary.to_markdown()
    assert r"{\scriptsize [+2.0, +18.0]$^\dagger$}" in latex(summary)
    assert "†" not in _WITH_NEW_EXAMPLES.to_markdown() and "dagger" not in latex(_WITH_NEW_EXAMPLES)


def test_markdown_has_the_answer_the_table_and_what_it_means():
    lines = _summary().to_markdown().splitlines()
    assert lines[0].startswith("batch_norm bought +10.0 points of test accuracy (95 % interval")
    assert lines[2] == "| network | lr | test accuracy | 95 % interval | n | difference (points) | its 95 % interval |"
    assert lines[5].startswith("| batch_norm | 0.1 | 0.910 | [0.885, 0.935] | 3 | +10.0 | [")
    assert lines[7].startswith("mean test accuracy over n seeds")
