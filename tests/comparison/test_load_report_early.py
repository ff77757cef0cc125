"""When the modules of the report are loaded before it is written."""

from __future__ import annotations

import threading
from itertools import pairwise

from bnkit.comparison.load_report_early import THREAD, LoadReportEarly
from bnkit.experiments.callbacks import PlanStarted, RunEnded, RunStarted
from bnkit.experiments.records.run_epochs_file import Record
from tests.report.fake_runs import fake_plan, finished_record


class _Loads:
    """Counts how often it was called, and waits for the calls that threads make."""

    def __init__(self) -> None:
        self.count, self.called = 0, threading.Event()

    def __call__(self):
        self.count += 1
        self.called.set()


def _ended(run):
    return RunEnded(run, finished_record(0.1, 0.2, 0.3, 0.4))


def _started(run):
    return RunStarted(run, Record())


def test_it_is_loaded_once_when_a_worker_of_two_has_no_run_left():
    planned, loads = fake_plan(), _Loads()
    callback = LoadReportEarly(loads)
    callback(PlanStarted(planned, {planned.runs[0]: finished_record(0.1, 0.2, 0.3, 0.4)}))
    left = list(planned.runs[1:])
    callback(_started(left[0]))
    for ending, starting in pairwise(left):
        callback(_started(starting))
        assert not loads.called.is_set()
        callback(_ended(ending))
    assert loads.called.wait(60)
    callback(_ended(left[-1]))
    assert loads.count == 1


def test_runs_one_after_the_other_are_not_disturbed():
    planned, loads = fake_plan(), _Loads()
    callback, threads = LoadReportEarly(loads), threading.active_count()
    callback(PlanStarted(planned, {}))
    for run in planned.runs:
        callback(_started(run))
        callback(_ended(run))
    assert loads.count == 0
    assert threading.active_count() == threads


def test_an_error_is_left_to_the_report(recwarn):
    planned, called = fake_plan(), threading.Event()

    def load():
        called.set()
        raise ImportError("no Bokeh")

    callback = LoadReportEarly(load)
    callback(PlanStarted(planned, {}))
    for run in planned.runs:
        callback(_started(run))
    for run in planned.runs:
        callback(_ended(run))
    assert called.wait(60)
    for thread in threading.enumerate():
        if thread.name == THREAD:
            thread.join(60)
    assert not list(recwarn)  # pytest turns what a thread raises into a warning


def test_one_run_is_not_disturbed():
    planned, loads = fake_plan(), _Loads()
    callback = LoadReportEarly(loads)
    callback(PlanStarted(planned, dict.fromkeys(planned.runs[1:], finished_record(0.1, 0.2, 0.3, 0.4))))
    callback(_started(planned.runs[0]))
    callback(_ended(planned.runs[0]))
    assert loads.count == 0
