"""What one sees while it trains, with a clock that stands where the test puts it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bnkit.cli.progress import LiveTable, PlainLines, ProgressEstimate, progress_display
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.records.record import Record, Status
from tests.report.fake_runs import diverged_record, epoch, fake_plan, finished_record


@pytest.fixture
def clock(monkeypatch):
    class Hands:
        now = 1000.0

    monkeypatch.setattr("time.monotonic", lambda: Hands.now)
    return Hands


def _console(width=80, height=24):
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=False)


def _shown(table, console):
    console.print(table)
    return console.file.getvalue()


def test_the_time_left_follows_from_the_pace_of_this_call(clock):
    planned = fake_plan()  # 6 runs of 4 epochs
    watch = ProgressEstimate(planned, {planned.runs[0]: finished_record(0.1, 0.2, 0.3, 0.4)})
    assert watch.left == "?"
    watch.epochs_done += 2
    clock.now += 10
    assert watch.left == "1:30"  # 18 epochs at 5 seconds


def test_epochs_that_need_not_be_trained_are_not_pace(clock):
    planned = fake_plan()
    watch = ProgressEstimate(planned, {})
    watch.epochs_done += 1
    clock.now += 10
    watch.skip(3)
    assert watch.left == "3:20"  # 20 epochs at 10 seconds


def test_a_part_of_an_epoch_counts(clock):
    planned = fake_plan()  # 24 epochs
    watch = ProgressEstimate(planned, {})
    watch.share_of_epoch = 0.5
    clock.now += 10
    assert watch.left == "7:50"  # 23.5 epochs at 20 seconds


def test_the_live_table_says_what_is_being_done(clock):
    planned, console = fake_plan(), _console()
    table, run = LiveTable(console), planned.runs[0]
    table.plan_started(planned, {})
    table.data_ready(run, 200)
    table.run_started(run, Record())
    table.batch_done(run, 1, 100)
    clock.now += 10
    assert "epoch 0 of 24, 7:50 left (100 examples into the next)" in _shown(table, console)
    table.measuring(run, "test")
    assert "(measuring: test)" in _shown(table, console)
    table.epoch_done(run, epoch(1, 0.5))
    table.batch_done(run, 2, 100)
    assert "epoch 1 of 24, 2:30 left (100 examples into the next)" in _shown(table, console)
    table.report_started()
    assert "(writing the report)" in _shown(table, console)


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_table_has_a_line_a_run_and_fits(clock, width):
    planned, console = fake_plan(), _console(width)
    table = LiveTable(console)
    assert "preparing" in _shown(table, console)
    table.plan_started(planned, {})
    first, second = planned.runs[:2]
    table.run_started(first, Record())
    ended = diverged_record(0.4, 0.5)
    for figures in ended.epochs:
        table.epoch_done(first, figures)
    table.run_ended(first, ended)
    table.run_started(second, Record())
    clock.now += 20
    table.epoch_done(second, epoch(1, 0.75))
    table.batch_done(second, 2, 64)
    text = _shown(table, console)
    lines = text.splitlines()
    head = next(line for line in lines if line.startswith("made: run 2 of 6"))
    assert "(64 examples into the next)" in " ".join(lines)
    assert "epoch 5 of 24" in head
    columns = next(line for line in lines if line.startswith("run")).split()
    assert columns == ["run", "network", "lr", "seed", "epoch", "loss", "train", "test", "ex/s", "left"]
    rows = [line.split() for line in lines if "of 4" in line]
    assert rows[0] == ["1", "no_batch_norm", "0.1", "0", "3", "of", "4", "nan", "–", "–", "100", "diverged"]
    assert rows[1][:11] == ["2", "batch_norm", "0.1", "0", "1", "of", "4", "1", "0.770", "0.750", "100"]
    assert rows[1][11:] == ["1:35"]  # 19 epochs, 4 in 20 seconds
    assert max(map(len, lines)) <= width


def test_the_live_table_shows_all_runs_that_are_trained_at_once(clock):
    planned, console = fake_plan(), _console(height=8)  # room for three
    table = LiveTable(console)
    table.plan_started(planned, {})
    first, second, third, fourth, *_ = planned.runs
    for run in (first, second, third, fourth):
        table.data_ready(run, 200)
        table.run_started(run, Record())
    clock.now += 10
    for run in (second, third):
        for figures in finished_record(0.1, 0.2, 0.3, 0.4).epochs:
            table.epoch_done(run, figures)
        table.run_ended(run, finished_record(0.1, 0.2, 0.3, 0.4))
    table.batch_done(first, 1, 100)
    table.batch_done(fourth, 1, 50)
    text = _shown(table, console)
    # 8 epochs, a half and a quarter in 10 seconds; 24 in all.
    assert "made: 2 of 6 runs done, 2 at once, epoch 8 of 24, 0:17 left" in text
    assert "examples into the next" not in text
    rows = [line.split() for line in text.splitlines() if "of 4" in line]
    assert [(row[0], row[-1]) for row in rows] == [("3", "finished"), ("1", "0:17"), ("4", "0:17")]
    # One of them begins again, from its checkpoint: nothing is counted twice.
    table.epoch_done(first, epoch(1, 0.5))
    table.run_started(first, Record(Status.RUNNING, [epoch(1, 0.5)]))
    assert table.estimate.epochs_done == 9


def test_a_low_terminal_shows_the_latest_runs():
    planned, console = fake_plan(), _console(height=8)
    table = LiveTable(console)
    table.plan_started(planned, {})
    for run in planned:
        table.run_started(run, Record())
    lines = [line for line in _shown(table, console).splitlines() if "of 4" in line]
    assert [line.split()[0] for line in lines] == ["4", "5", "6"]


def test_plain_lines_come_now_and_then_and_at_the_end_of_a_run(clock):
    planned, console = fake_plan(), _console(250)
    lines = PlainLines(console)
    lines.plan_started(planned, {})
    lines.run_started(planned.runs[0], Record())
    for number in range(1, 5):
        clock.now += 1
        lines.epoch_done(planned.runs[0], epoch(number, 0.5))
    lines.run_ended(planned.runs[0], finished_record(0.5))
    text = console.file.getvalue().splitlines()
    assert text[0] == "made: 6 runs, 0 done before"
    assert [line.split("epoch ")[1].split("  ")[0] for line in text[1:]] == ["1 of 4", "4 of 4"]


def test_a_failure_names_the_exception(clock):
    planned, console = fake_plan(), _console(250)
    lines = PlainLines(console)
    lines.plan_started(planned, {})
    lines.run_ended(planned.runs[0], Record(Status.FAILED, traceback="Traceback\n  x\nValueError: [bold]no[/bold]\n"))
    assert "no_batch_norm  lr 0.1  seed 0  failed: ValueError: [bold]no[/bold]" in console.file.getvalue()


@pytest.mark.parametrize(
    ("terminal", "options", "kind"),
    [
        (True, {}, LiveTable),
        (False, {}, PlainLines),
        (True, {"verbose": True}, PlainLines),
        (True, {"quiet": True}, Callback),
    ],
    ids=["terminal", "pipe", "verbose", "quiet"],
)
def test_the_display_suits_the_place(terminal, options, kind):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    with progress_display(console, **{"quiet": False, "verbose": False, **options}) as observer:
        assert type(observer) is kind
