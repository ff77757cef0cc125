from __future__ import annotations

import numpy as np
import pytest

from bnkit.experiments.records.run_epochs_file import Record, Status
from bnkit.report.results_of_plan import Results
from bnkit.report.tables import (
    crossed_table,
    epochs_table,
    first_layer_table,
    format_setting,
    format_value,
    losses_table,
    runs_table,
    summary_table,
)
from tests.report.fake_runs import diverged_record, fake_plan, fake_results, finished_record, scored_record


def test_runs_are_sorted_by_test_accuracy_and_those_without_come_last():
    planned = fake_plan()

    def outcome(run):
        if run.number == 1:
            return diverged_record()
        if run.number == 6:
            return None
        return finished_record(0.1, 0.5 + run.number / 100)

    header, rows = runs_table(fake_results(planned, outcome))
    assert [row[0] for row in rows] == ["5", "4", "3", "2", "1"]
    first, last = dict(zip(header, rows[0], strict=True)), dict(zip(header, rows[-1], strict=True))
    assert first == {
        "run": "5", "network": "no_batch_norm", "lr": "0.1", "seed": "2", "epochs": "2", "loss": "0.5000",
        "accuracy": "0.5700", "test accuracy": "0.5500", "population": "–", "s/epoch": "2", "examples/s": "100",
        "status": "finished",
    }  # fmt: skip
    assert (last["status"], last["loss"]) == ("diverged", "–")


def test_a_run_that_failed_before_its_first_epoch_has_a_row():
    planned = fake_plan()
    _, rows = runs_table(fake_results(planned, lambda run: Record(Status.FAILED)))
    assert [row[-1] for row in rows] == ["failed"] * 6
    assert {row[3] for row in rows} == {"–"} or {row[4] for row in rows} == {"–"}


def test_settings_that_vary_have_a_column():
    planned = fake_plan(grid={"lr": [0.1], "batch_size": [8, 16], "trainset": ["normal"]})
    header, _ = runs_table(Results(planned, {}))
    assert header[:5] == ("run", "network", "lr", "batch_size", "seed")


def test_the_courses_table_is_sorted_by_training_accuracy_over_all_epochs():
    planned = fake_plan()
    header, rows = epochs_table(fake_results(planned, lambda run: finished_record(0.5, 0.6 + run.number / 100)))
    accuracies = [float(row[header.index("accuracy")]) for row in rows]
    assert len(rows) == 12
    assert accuracies == sorted(accuracies, reverse=True)
    assert set(header) >= {
        "run", "epoch", "loss", "accuracy", "epoch duration", "run duration", "lr", "batch size", "num workers",
        "device", "trainset", "network",
    }  # fmt: skip


def test_gamma_and_beta_of_the_first_layer():
    planned = fake_plan()

    def outcome(run):
        record = finished_record(0.5)
        if run.network.key == "batch_norm":
            record.first_layer = {"site": "bn1", "gamma": [1.0, None], "beta": [-0.25, 0.5]}
        return record

    _, rows = first_layer_table(fake_results(planned, outcome))
    assert rows[0] == ("2", "batch_norm", "0", "bn1", "1.00 –", "-0.25 0.50")
    assert len(rows) == 3


def test_settings_against_networks_with_intervals_and_what_was_lost():
    planned = fake_plan(grid={"lr": [0.1], "trainset": ["normal", "not_normal"]})

    def outcome(run):
        if run.settings.trainset == "not_normal" and run.network.key == "batch_norm" and run.seed:
            return diverged_record(0.3)
        return finished_record(0.5 + run.seed / 10)

    header, rows = crossed_table(fake_results(planned, outcome))
    assert header == ("trainset", "no_batch_norm", "batch_norm")
    # 0.5, 0.6, 0.7: mean 0.6, deviation 0.1, t(0.975, 2) = 4.302653
    assert rows[0] == ("normal", "0.6000 [0.3516, 0.8484]", "0.6000 [0.3516, 0.8484]")
    assert rows[1] == ("not_normal", "0.6000 [0.3516, 0.8484]", "0.5000, 2 of 3 lost")


def test_a_mean_accuracy_is_no_more_certain_than_its_answers_allow():
    planned = fake_plan(seeds=2)
    _, (row,) = crossed_table(fake_results(planned, lambda run: finished_record(0.5, 1.0, test_answers=100)))
    # Wilson's interval of 100 of 100 is 0.9630 to 1; two seeds in steps of a hundredth: 12.7062 · 0.01 / √12 / √2 = 0.0259.
    assert row[1:] == ("1.0000 [0.9630, 1.0000] counted",) * 2


def test_the_lines_of_the_courses_loop():
    planned = fake_plan(seeds=1)
    _, rows = losses_table(fake_results(planned, lambda run: diverged_record(0.5)))
    assert rows[0] == ("1", "no_batch_norm", "0", "Epoch [1/4], Loss: 1.0000")
    assert rows[1][-1] == "Epoch [2/4], Loss: nan"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.123456, "0.1235"), (99.99996, "100.0000"), (12345.6, "1.23e+04"), (0.0, "0.0000")],
)
def test_numbers_are_rounded_for_the_table(value, text):
    assert format_value(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.1, "0.1"), (1.0, "1"), (1e-05, "1e-05"), (64, "64"), ("adam", "adam")])
def test_settings_are_formatted(value, text):
    assert format_setting(value) == text


def test_a_row_for_each_setting_and_network_counts_what_was_lost():
    planned = fake_plan(grid={"lr": [0.1, 1.0]})

    def outcome(run):
        if run.settings.lr == 1.0 and run.network.key == "no_batch_norm" and run.seed:
            return diverged_record(0.3) if run.seed == 1 else Record(Status.FAILED)
        return finished_record(0.5 + run.seed / 10)

    table = summary_table(fake_results(planned, outcome))
    assert table.header == ("network", "lr", "mean", "95 % interval", "n", "failed")
    # 0.5, 0.6, 0.7: mean 0.6, deviation 0.1, t(0.975, 2) = 4.302653
    assert table.rows == [
        ("no_batch_norm", "0.1", "0.600", "[0.352, 0.848]", "3", "0"),
        ("batch_norm", "0.1", "0.600", "[0.352, 0.848]", "3", "0"),
        ("no_batch_norm", "1", "0.500", "–", "1", "2"),
        ("batch_norm", "1", "0.600", "[0.352, 0.848]", "3", "0"),
    ]
    assert "diverged or raised" in table.note


def test_an_interval_whose_width_comes_from_counting_says_so():
    table = summary_table(fake_results(fake_plan(seeds=2), lambda run: finished_record(0.5, 1.0, test_answers=100)))
    assert [row[3] for row in table.rows] == ["[0.963, 1.000] counted"] * 2
    assert table.note.startswith("counted: ")
    assert (
        crossed_table(fake_results(fake_plan(seeds=2), lambda run: finished_record(0.5, 1.0, test_answers=100))).note
        == table.note
    )
    wide = summary_table(fake_results(fake_plan(), lambda run: finished_record(0.5 + run.seed / 10)))
    assert [row[3] for row in wide.rows] == ["[0.352, 0.848]"] * 2 and "counted" not in wide.note


_LONG_NAMES = ("resnet20.no_batch_norm", "resnet20.batch_norm", "lenet.no_batch_norm", "lenet.batch_norm")


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize(
    "make", [summary_table, runs_table, crossed_table, epochs_table, losses_table, first_layer_table]
)
def test_every_table_fits_and_breaks_no_word(make, width):
    planned = fake_plan(_LONG_NAMES, grid={"lr": [0.1, 3e4], "batch_size": [64, 256], "trainset": ["normal"]})

    def outcome(run):
        record = diverged_record(0.5) if run.number % 5 == 1 else finished_record(0.1234, 0.2345 + run.number / 100)
        record.first_layer = {"site": "features.bn1", "gamma": [1.0] * 32, "beta": [-0.25] * 32}
        return record

    table = make(fake_results(planned, outcome))
    lines = [line for _, line in table.lines(width)]
    assert max(map(len, lines)) <= width
    words = {
        word.strip(",:")
        for text in [*table.header, *(cell for row in table.rows for cell in row)]
        for word in text.split()
    }
    assert {word.strip(",:") for line in lines for word in line.split()} <= words
    if make in (summary_table, runs_table, crossed_table):
        assert all(any(name in line for line in lines) for name in ("resnet20.no_batch_norm", "lenet.batch_norm"))


def test_a_long_table_of_runs_shows_the_best():
    planned = fake_plan()
    table = runs_table(fake_results(planned, lambda run: finished_record(0.5 + run.number / 100)), 2, "look there")
    assert ([row[0] for row in table.rows], table.title, table.note) == (
        ["6", "5"],
        "The best runs",
        "… 4 more: look there",
    )


def test_the_summary_has_the_interval_for_new_examples_where_it_is_known():
    def outcome(run):
        return scored_record(np.arange(50) >= 5 + run.seed) if run.network.key == "batch_norm" else finished_record(0.5)

    header, rows = summary_table(fake_results(fake_plan(), outcome))
    found = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert found["no_batch_norm"]["new examples"] == "–"
    ends = [
        [float(end) for end in found["batch_norm"][title].removesuffix(" counted").strip("[]").split(", ")]
        for title in ("95 % interval", "new examples")
    ]
    # In all seeds the same examples are wrong: the interval is hardly wider than that of 88 % of 50, and that of Student's t.
    assert ends[1][0] <= ends[0][0] <= 0.88 <= ends[0][1] <= ends[1][1] <= 1.0
    assert ends[1] == pytest.approx([0.88 - 0.098, 0.88 + 0.098], abs=0.03)


def test_a_summary_of_old_records_has_no_such_column():
    header, _ = summary_table(fake_results(fake_plan(), lambda run: finished_record(0.5)))
    assert header == ("network", "lr", "mean", "95 % interval", "n", "failed")
