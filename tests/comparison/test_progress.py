"""What one sees while it trains, with a clock that stands where the test puts it."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from bnkit.comparison.live_table import LiveTable
from bnkit.comparison.progress import PlainLines, progress_display, shown_progress
from bnkit.comparison.progress_estimate import ProgressEstimate
from bnkit.comparison.undecided_table import describe_look, looks_table
from bnkit.errors import SettingsError
from bnkit.experiments.callbacks import Callback, EpochDone, PlanStarted, RunStarted
from bnkit.experiments.records.run_epochs_file import Record, Status
from bnkit.experiments.until_settings import ContrastLooks, Look, StoppingRule
from bnkit.report.objective_metric import Objective
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
    with console.capture() as drawn:
        console.print(table)
    return drawn.get()


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
    text = _shown(table, console)
    assert "2 %, 7:50 left" in text
    assert "0 of 6 runs done, epoch 0 of 24, 100 examples into the next" in text
    table.measuring(run, "test")
    assert "epoch 0 of 24, measuring: test" in _shown(table, console)
    table.epoch_done(run, epoch(1, 0.5))
    table.batch_done(run, 2, 100)
    text = _shown(table, console)
    assert "6 %, 2:30 left" in text
    assert "epoch 1 of 24, 100 examples into the next" in text
    table.report_started()
    assert "writing the report" in _shown(table, console)


def _rows(text, epochs=4):
    return [line.split() for line in text.splitlines() if f"/{epochs}" in line]


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (40, ["run", "network", "epoch"]),
        (60, ["run", "network", "lr", "seed", "epoch", "test"]),
        (80, ["run", "network", "lr", "seed", "epoch", "loss", "train", "test", "ex/s"]),
        (120, ["run", "network", "lr", "seed", "epoch", "loss", "train", "test", "ex/s"]),
    ],
)
def test_the_live_table_has_a_line_a_run_and_fits(clock, width, columns):
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
    assert "━" in text and "21 %, 1:35 left" in text  # 5 of 24 epochs; 19 to go, 4 in 20 seconds
    assert next(line for line in text.splitlines() if line.startswith("run")).split() == columns
    expected = [
        {"run": "1", "network": "no_batch_norm", "lr": "0.1", "seed": "0", "epoch": "3/4", "loss": "nan", "train": "–", "test": "–", "ex/s": "100"},
        {"run": "2", "network": "batch_norm", "lr": "0.1", "seed": "0", "epoch": "1/4", "loss": "1", "train": "0.770", "test": "0.750", "ex/s": "100"},
    ]  # fmt: skip
    assert _rows(text)[:2] == [
        [*(row[column] for column in columns), *state]
        for row, state in zip(expected, (["diverged"], ["25", "%"]), strict=True)
    ]
    assert [row[-1] for row in _rows(text)[2:]] == ["waiting"] * 4
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [30, 40, 80])
def test_the_live_table_keeps_its_height_and_counts_what_it_leaves_out(clock, width):
    planned, console = fake_plan(("resnet20.no_batch_norm", "resnet20.batch_norm"), seeds=5), _console(width, height=9)
    table = LiveTable(console)
    table.plan_started(planned, {})
    heights, first_rows, shown = set(), [], ""
    for run in planned:
        table.data_ready(run, 100)
        table.run_started(run, Record())
        for number in range(1, 5):
            table.measuring(run, "population statistics")
            table.epoch_done(run, epoch(number, 0.5, loss=10.0**-number))
            clock.now += 1
            shown = _shown(table, console)
            heights.add(shown.count("\n"))
            assert max(map(len, shown.splitlines())) <= width
        table.run_ended(run, finished_record(0.5))
        first_rows.append(next(line for line in shown.splitlines() if "/4" in line))
    assert heights == {8}  # the bar, what is done, the header, four rows and how many are left out
    assert "… 6 before" in shown and "to come" not in shown
    assert len(set(first_rows)) > 1


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
    assert "36 %, 0:17 left" in text
    assert "2 of 6 runs done, 2 at once, epoch 8 of 24" in text
    assert "examples into the next" not in text
    assert [(row[0], row[-1]) for row in _rows(text)] == [("1", "%"), ("4", "%"), ("5", "waiting")]
    assert "… 2 before, 1 to come" in text
    # One of them begins again, from its checkpoint: nothing is counted twice.
    table.epoch_done(first, epoch(1, 0.5))
    table.run_started(first, Record(Status.RUNNING, [epoch(1, 0.5)]))
    assert table.estimate.epochs_done == 9


def test_a_second_plan_begins_anew(clock):
    """As each design of `bnkit claims` does."""
    planned, console = fake_plan(), _console()
    table = LiveTable(console)
    table.plan_started(planned, {})
    table.run_started(planned.runs[0], Record())
    table.run_ended(planned.runs[0], finished_record(0.5))
    table.plan_started(fake_plan(epochs=9), {planned.runs[1]: finished_record(0.5)})
    assert [row[-1] for row in _rows(_shown(table, console), 9)] == ["waiting"] * 5


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
    with progress_display(console, **options) as callback:
        assert type(callback) is kind


@pytest.mark.parametrize(
    ("terminal", "progress", "kind"),
    [
        (False, None, Callback),
        (False, False, Callback),
        (False, True, PlainLines),
        (True, None, LiveTable),
        (True, False, Callback),
        (True, True, LiveTable),
    ],
)
def test_a_caller_in_python_sees_progress_on_a_terminal_or_as_asked(monkeypatch, terminal, progress, kind):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    monkeypatch.setattr("bnkit.comparison.progress.stderr_console", lambda: console)
    with shown_progress(progress) as callback:
        assert type(callback) is kind


class _Outputs:
    """Stands for IPython's display: what each output of the cell showed, in order."""

    def __init__(self):
        self.shown = []

    def display(self, content, *, raw, display_id):
        assert raw and display_id
        self.shown.append([content])
        return SimpleNamespace(update=lambda content, raw: self.shown[-1].append(content))


@pytest.fixture
def notebook(monkeypatch):
    outputs, console = _Outputs(), Console(file=io.StringIO(), width=80)
    monkeypatch.setattr(console, "is_jupyter", True)
    monkeypatch.setattr("bnkit.comparison.progress.stderr_console", lambda: console)
    monkeypatch.setitem(sys.modules, "IPython.display", outputs)
    return outputs


def test_a_notebook_gets_one_output_that_is_updated(notebook, clock):
    planned = fake_plan(seeds=1)
    first = planned.runs[0]
    with shown_progress(None) as callback:
        callback(PlanStarted(planned, {}))
        clock.now += 0.4
        callback(RunStarted(first, Record()))
        before = len(notebook.shown[0])
        clock.now += 0.2
        callback(EpochDone(first, epoch(1, 0.5)))
    (states,) = notebook.shown
    assert "preparing" in states[0]["text/plain"] and before == 2 and len(states) == 4
    assert states[1]["text/plain"].count("waiting") == len(planned)
    assert re.search(r"1 +no_batch_norm .* 1/\d", states[2]["text/plain"])
    assert states[-1]["text/plain"] == f"{planned.experiment.name}: 0 of {len(planned)} runs done\n"
    assert all(max(map(len, state["text/plain"].splitlines())) <= 90 for state in states)
    assert all(state["text/html"].startswith("<pre style=") and "\x1b" not in state["text/html"] for state in states)


def test_an_interrupted_comparison_leaves_its_last_state_in_the_notebook(notebook):
    planned = fake_plan(seeds=1)
    with pytest.raises(KeyboardInterrupt), shown_progress(None) as callback:
        callback(PlanStarted(planned, {}))
        callback(RunStarted(planned.runs[0], Record()))
        raise KeyboardInterrupt
    assert "waiting" in notebook.shown[0][-2]["text/plain"].splitlines()[3]
    assert re.search(r"^ +1 +no_batch_norm.* 0 %$", notebook.shown[0][-1]["text/plain"], re.MULTILINE)


def test_what_is_no_answer_to_whether_progress_is_shown():
    with pytest.raises(SettingsError, match="progress='yes'; expected True, False, or None"), shown_progress("yes"):
        pass


def _grown(*verdicts, network="batch_norm", is_new=True):
    looks = tuple(Look(pairs, 0.021, -0.01, 0.05, verdict, is_new) for pairs, verdict in enumerate(verdicts, start=3))
    return ContrastLooks("no_batch_norm", network, {}, 0.1, 0.1, looks)


@pytest.mark.parametrize("width", [40, 80])
def test_the_interval_closes_line_by_line(clock, width):
    console = _console(width=width)
    table, planned = LiveTable(console), fake_plan(seeds=1, until="decided")
    table.plan_started(planned, {})
    assert "so far" not in _shown(table, console)
    table.look_taken(_grown("unknown"), StoppingRule())
    table.look_taken(_grown("unknown", "gain"), StoppingRule())
    lines = _shown(table, console).splitlines()
    assert all(len(line) <= width for line in lines)
    (line,) = (line for line in lines if "[−1.0, +5.0]" in line)
    assert line.split()[:2] == ["batch_norm", "4"]
    assert line.rstrip().endswith("gain")
    assert ("1 point" in line) == (width == 80)
    header = " ".join(lines[2 : lines.index(line)])
    assert ("95 % interval, new examples" in header) == (width == 80)
    assert {"95", "%", "interval,", "new", "examples"} < set(header.split())
    table.plan_started(fake_plan(), {})  # of another comparison
    assert "so far" not in _shown(table, console)


def test_a_plan_that_grows_keeps_its_pace(clock):
    planned = fake_plan(seeds=1, until="decided")
    rounds = [replace(planned, runs=planned.runs[:count]) for count in (2, 4)]
    watch = LiveTable(_console())
    watch.plan_started(rounds[0], {})
    for run in rounds[0]:
        for number in range(1, 5):
            clock.now += 1
            watch.epoch_done(run, epoch(number, 0.5))
        watch.run_ended(run, finished_record(0.5, 0.5, 0.5, 0.5))
    watch.plan_started(rounds[1], {run: finished_record(0.5) for run in rounds[0]})
    assert (watch.estimate.runs_done, watch.estimate.left) == (2, "0:08")


@pytest.mark.parametrize(
    ("verdict", "margin", "said"),
    [("unknown", None, "open"), ("loss", None, "loss"), ("nothing", None, "under 1 point"), ("nothing", 0.5, "under 0.5 points")],
)  # fmt: skip
def test_a_log_says_what_each_look_found(verdict, margin, said):
    console = _console(width=200)
    lines = PlainLines(console)
    lines.plan_started(fake_plan(), {})
    lines.look_taken(_grown(verdict), StoppingRule(margin=margin))
    lines.seeds_ended((), "budget")
    assert console.file.getvalue().splitlines()[-2:] == [
        f"batch_norm against no_batch_norm: +2.1 points, 95 % interval for new test examples [−1.0, +5.0], n = 3: {said}",
        "no more seeds: the budget ends; the same call resumes",
    ]


def test_a_look_says_for_which_test_examples_its_interval_is(clock):
    new, these = _grown("unknown"), _grown("gain", network="group_norm", is_new=False)
    (header, ((*_, interval, _, _),)) = looks_table([these], StoppingRule(), Objective())
    assert ("95 % interval, these examples" in header, interval) == (True, "[−1.0, +5.0]")
    header, rows = looks_table([new, these], StoppingRule(), Objective())
    assert "95 % interval" in header
    assert [row[3] for row in rows] == ["[−1.0, +5.0] new", "[−1.0, +5.0] these"]
    assert describe_look(these, StoppingRule(), Objective()) == (
        "group_norm against no_batch_norm: +2.1 points, 95 % interval for these test examples [−1.0, +5.0], n = 3: gain"
    )
