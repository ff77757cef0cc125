"""Loads the code of the report while the last runs train. Needs no torch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

from bnkit.experiments.callbacks import Callback
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.run_epochs_file import Record

THREAD = "bnkit loads the report"


class LoadReportEarly(Callback):
    """Loads the report's modules, Bokeh among them, once a worker has no run left: they take a second of its processor.

    Without workers nothing is loaded early: the runs would share the processor, and their durations are recorded.

    Args:
        load: Called once, in a thread.
    """

    def __init__(self, load: Callable[[], object] = lambda: import_module("bnkit.report.page")) -> None:
        self._load: Callable[[], object] | None = load
        self._left = 0
        self._running: set[Run] = set()

    def plan_started(self, plan: Plan, done: dict[Run, Record]) -> None:
        self._left = len(plan.runs) - len(done)

    def run_started(self, run: Run, record: Record) -> None:
        self._running.add(run)

    def run_ended(self, run: Run, record: Record) -> None:
        self._running.discard(run)
        self._left -= 1
        if self._load is not None and self._running and len(self._running) == self._left:
            threading.Thread(target=_without_errors, args=(self._load,), name=THREAD, daemon=True).start()
            self._load = None


def _without_errors(load: Callable[[], object]) -> None:
    with suppress(Exception):  # the report loads the same, and raises it where it can be reported
        load()
