"""Training round by round until the rule of an experiment is content: one launch, and decisions between rounds only."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from bnkit.comparison.seed_growth import seed_growth
from bnkit.experiments.callbacks import EventHandler, LookTaken, SeedsEnded
from bnkit.experiments.plan import Plan, Run, plan
from bnkit.experiments.records.budget_end import forget_budget_end, note_budget_end, runs_at_budget_end
from bnkit.experiments.records.record import Record, Status
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.running.request import PreparedExperiment
from bnkit.report.added_seeds import SeedGrowth


def growth_in(folder: ResultsFolder, planned: Plan) -> SeedGrowth | None:
    """How far the rule of an experiment has got, for a reader: runs that failed have ended. None without a rule.

    Args:
        folder: What is recorded.
        planned: The plan of the experiment, or those runs of it that were asked for.
    """
    if planned.experiment.until is None:
        return None
    growth = seed_growth(plan(planned.experiment), folder.record)
    if not growth.reason and len(growth.runs) - len(growth.rounds[-1]) == runs_at_budget_end(folder.path):
        return growth.stopped_by_budget()
    return growth


def asked_plan(folder: ResultsFolder, planned: Plan) -> Plan:
    """The runs that the rule of ``planned`` asked for by now; all of a plan without one."""
    growth = growth_in(folder, planned)
    return planned if growth is None else Plan(planned.experiment, growth.runs)


def runs_to_train(planned: Plan, folder: ResultsFolder) -> Plan:
    """``asked_plan``, with the round that the end of a budget has kept from beginning: the next call begins it."""
    if planned.experiment.until is None:
        return planned
    return Plan(planned.experiment, seed_growth(planned, folder.record).runs)


def train_until_decided(prepared: PreparedExperiment, folder: ResultsFolder, callback: EventHandler) -> Plan:
    """Train the plan of ``prepared`` as far as its rule asks, all of it without one; the runs that were asked for.

    The rule goes by complete rounds, so that the figures depend neither on the workers nor on when a call was ended. Time has
    a say in one thing: with a budget, a round is not begun that would end after it at the pace of this call.
    """
    planned, rule = prepared.plan, prepared.plan.experiment.until
    if rule is None:
        prepared.train(planned)
        return planned
    forget_budget_end(folder.path)
    for run in planned:
        folder.forget(run)  # it may have been read before this process was the only one that writes
    given_up: set[str] = set()
    looks: dict[tuple[object, ...], int] = {}

    def replayed() -> SeedGrowth:
        return seed_growth(planned, lambda run: _to_go_by(folder.record(run), run, given_up))

    growth, clock = replayed(), _Clock(rule.budget)
    while True:
        asked = growth.runs
        missing = [run for run in asked if not folder.record(run).is_complete and run.run_id not in given_up]
        # The first time in any case: it says what was done before.
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
    """``record``, unless the run failed in an earlier call: then it is tried once more."""
    return Record() if record.status is Status.FAILED and run.run_id not in given_up else record


class _Clock:
    """How much of a budget is left."""

    def __init__(self, budget: float | None) -> None:
        self._budget, self._began, self._epochs = budget, time.monotonic(), 0

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def add(self, runs: Iterable[Run]) -> None:
        """Count ``runs``, which were trained."""
        self._epochs += sum(run.epochs for run in runs)

    def ends_before(self, runs: Iterable[Run]) -> bool:
        """Whether the budget would end before ``runs`` do, at the pace so far."""
        if self._budget is None:
            return False
        pace = self.seconds / self._epochs if self._epochs else 0.0
        return self.seconds + pace * sum(run.epochs for run in runs) > self._budget
