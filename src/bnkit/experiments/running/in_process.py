"""Train the runs of a plan one after the other in this process; also code shared with the other ways to train."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from bnkit.experiments.callbacks import Callback, CallbackList, EventHandler, Note, PlanStarted
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.records.run_epochs_file import CorruptRecordError, Epoch, Record
from bnkit.experiments.resolve_experiment import Components
from bnkit.experiments.running.launch_request import PreparedExperiment, RunRequest, try_once
from bnkit.experiments.running.train_or_resume_run import cleanup, train_run
from bnkit.memory import keep_freed_memory


@contextmanager
def launch(
    plan: Plan, components: Components, request: RunRequest, callback: EventHandler
) -> Iterator[PreparedExperiment]:
    """``plan``, each network tried once, to be trained in this process."""
    try_once(plan, components, request.options)
    yield PreparedExperiment(plan, components, partial(_train_all, components, request, callback))


def _train_all(
    components: Components, request: RunRequest, callback: EventHandler, plan: Plan, given_up: Collection[str] = ()
) -> None:
    """Train every run of ``plan`` that is not complete in the folder of ``request``, which the caller has locked for writing.

    An exception in a run ends that run as failed; the others continue. However this call ends, ``results.csv`` has the
    records up to then.
    """
    keep_freed_memory()
    folder, callback = request.folder, CallbackList(*request.worker_callbacks, callback)
    with incomplete_runs(plan, folder, callback, given_up) as (runs, callback):
        for run in runs:
            train_run(run, components, folder, callback, keep_checkpoints=request.keep_checkpoints)


@contextmanager
def incomplete_runs(
    plan: Plan, folder: ResultsFolder, callback: EventHandler, given_up: Collection[str] = ()
) -> Iterator[tuple[Sequence[Run], EventHandler]]:
    """The runs of ``plan`` that are left to train, and the callback to use: ``callback`` and one that writes ``results.csv``.

    Runs with ids in ``given_up`` are skipped.
    The overhead per trained run is constant, for any number of runs.
    """
    _quarantine_corrupt_records(plan, folder, callback)
    done = {run: folder.record(run) for run in plan if folder.record(run).is_complete or run.run_id in given_up}
    for run in done:
        cleanup(run, folder)  # of a call that was killed after the last record line, before the cleanup
    callback(PlanStarted(plan, done))
    try:
        yield [run for run in plan if run not in done], CallbackList(callback, _ResultsTable(plan, folder))
    finally:
        folder.write_results(plan)


class _ResultsTable(Callback):
    """Updates ``results.csv`` from time to time."""

    def __init__(self, plan: Plan, folder: ResultsFolder) -> None:
        self._plan, self._folder = plan, folder

    def epoch_done(self, run: Run, epoch: Epoch) -> None:
        self._folder.forget(run)
        self._folder.refresh_results(self._plan)

    def run_ended(self, run: Run, record: Record) -> None:
        self._folder.forget(run)
        self._folder.refresh_results(self._plan)


def _quarantine_corrupt_records(plan: Plan, folder: ResultsFolder, callback: EventHandler) -> None:
    for run in plan:
        try:
            folder.read(run)
        except CorruptRecordError as error:
            aside = folder.record_file(run).quarantine()
            callback(Note(f"{error}: it is kept as {aside.name}, and run {run.number} is made again"))
