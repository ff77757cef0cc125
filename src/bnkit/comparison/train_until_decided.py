"""Trains round by round until the rule of an experiment stops: one launch, with decisions between rounds only."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from bnkit.comparison.choose_next_runs import seed_growth
from bnkit.experiments.callbacks import EventHandler, LookTaken, SeedsEnded
from bnkit.experiments.plan import Plan, Run, plan
from bnkit.experiments.records.budget_exhausted import forget_budget_end, note_budget_end, runs_at_budget_end
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.records.run_epochs_file import Record, Status
from bnkit.experiments.running.launch_request import PreparedExperiment
from bnkit.report.added_seeds import SeedGrowth


def growth_in(folder: ResultsFolder, planned: Plan) -> SeedGrowth | None:
    """The progress of the rule of an experiment, for a report: failed runs count as ended. None without a rule.

    Args:
        folder: The folder with the records.
        planned: The plan of the experiment, or the runs that the rule asked for.
    """
    if planned.experiment.until is None:
        return None
    growth = seed_growth(plan(planned.experiment), folder.record)
    if not growth.reason and len(growth.runs) - len(growth.rounds[-1]) == runs_at_budget_end(folder.path):
        return growth.stopped_by_budget()
    return growth


def asked_plan(folder: ResultsFolder, planned: Plan) -> Plan:
    """The runs that the rule of ``planned`` has asked for; all runs of a plan without a rule."""
    growth = growth_in(folder, planned)
    return planned if growth is None else Plan(planned.experiment, growth.runs)


def runs_to_train(planned: Plan, folder: ResultsFolder) -> Plan:
    """``asked_plan``, plus the round that the budget did not allow to begin: the next call begins it."""
    if planned.experiment.until is None:
        return planned
    return Plan(planned.experiment, seed_growth(planned, folder.record).runs)


def train_until_decided(prepared: PreparedExperiment, folder: ResultsFolder, callback: EventHandler) -> Plan:
    """Train the runs that the rule of ``prepared`` asks for, or the whole plan without a rule, and return them.

    The rule decides after complete rounds only, so that figures depend neither on the workers nor on when a call ended. Time only
    matters for a budget: a round that would end after it, at the pace of this call, is not begun.
    """
    planned, rule = prepared.plan, prepared.plan.experiment.until
    if rule is None:
        prepared.train(planned)
        return planned
    forget_budget_end(folder.path)
    for run in planned:
        folder.forget(run)  # the cached record may be older than this process's lock on the folder
    given_up: set[str] = set()
    looks: dict[tuple[object, ...], int] = {}

    def replayed() -> SeedGrowth:
        return seed_growth(planned, lambda run: _to_go_by(folder.record(run), run, given_up))

    growth, clock = replayed(), _TimeBudget(rule.budget)
    while True:
        asked = growth.runs
        missing = [run for run in asked if not folder.record(run).is_complete and run.run_id not in given_up]
        # The first time even if no run is missing: it reports the runs that were done before.
        prepared.train(Plan(planned.experiment, asked), given_up)
        given_up |= {run.run_id for run in missing if folder.record(run).status is Status.FAILED}
        clock.add(missing)
        growth = replayed()
        for contrast in growth.contrasts:
            if len(contrast.looks) > looks.get(contrast.key, 0):
                looks[contrast.key] = len(contrast.looks)
                callback(LookTaken(contrast, rule))
        if not growth.reason and clock.ends_before(growth.rounds[-1]):
            note_budget_end(folder.path, len(asked), clock.seconds)
            growth = growth.stopped_by_budget()
        if growth.reason:
            callback(SeedsEnded(growth.contrasts, growth.reason))
            return Plan(planned.experiment, growth.runs)


def _to_go_by(record: Record, run: Run, given_up: Collection[str]) -> Record:
    """``record``; an empty one if the run failed in an earlier call, so that it is tried again."""
    return Record() if record.status is Status.FAILED and run.run_id not in given_up else record


class _TimeBudget:
    """Measures the time spent of a budget."""

    def __init__(self, budget: float | None) -> None:
        self._budget, self._began, self._epochs = budget, time.monotonic(), 0

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def add(self, runs: Iterable[Run]) -> None:
        """Count the epochs of ``runs``, which were trained."""
        self._epochs += sum(run.epochs for run in runs)

    def ends_before(self, runs: Iterable[Run]) -> bool:
        """Whether the budget would end before ``runs`` do, at the pace so far."""
        if self._budget is None:
            return False
        pace = self.seconds / self._epochs if self._epochs else 0.0
        return self.seconds + pace * sum(run.epochs for run in runs) > self._budget
