"""Training the runs of a plan: what any way of doing that has in common, and the plain one, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bnkit.experiments.callbacks import Callback, CallbackList
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.record import CorruptRecordError, Epoch, Record
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.resolve import Components
from bnkit.experiments.running.run import cleanup, train_run
from bnkit.memory import keep_freed_memory


def train_all(
    plan: Plan, components: Components, folder: ResultsFolder, callback: Callback, *, keep_checkpoints: bool = False
) -> None:
    """Train every run of ``plan`` that is not complete in ``folder``, whose writer the caller is, one after the other.

    An exception in a run ends that run as failed; the others go on. Whatever ends this call, ``results.csv`` says what
    is recorded by then.
    """
    keep_freed_memory()
    with training(plan, folder, callback) as (left, told):
        for run in left:
            train_run(run, components, folder, told, keep_checkpoints=keep_checkpoints)


@contextmanager
def training(plan: Plan, folder: ResultsFolder, callback: Callback) -> Iterator[tuple[Sequence[Run], Callback]]:
    """The runs of ``plan`` that are left to train, and whom to tell: ``callback``, and what keeps ``results.csv`` up to date.

    The work is constant for every run that is trained inside, however many there are.
    """
    _set_aside_garbled(plan, folder, callback)
    done = {run: folder.record(run) for run in plan if folder.record(run).is_complete}
    for run in done:
        cleanup(run, folder)  # of a call that was killed between its last line and that
    callback.plan_started(plan, done)
    left = [run for run in plan if run not in done]
    try:
        yield left, CallbackList([callback, _Table(plan, folder)])
    finally:
        folder.write_results(plan)


class _Table(Callback):
    """Writes ``results.csv`` now and then."""

    def __init__(self, plan: Plan, folder: ResultsFolder) -> None:
        self._plan, self._folder = plan, folder

    def epoch_done(self, run: Run, epoch: Epoch) -> None:
        self._folder.forget(run)
        self._folder.refresh_results(self._plan)

    def run_ended(self, run: Run, record: Record) -> None:
        self._folder.forget(run)
        self._folder.refresh_results(self._plan)


def _set_aside_garbled(plan: Plan, folder: ResultsFolder, callback: Callback) -> None:
    for run in plan:
        try:
            folder.read(run)
        except CorruptRecordError as error:
            aside = folder.record_file(run).quarantine()
            callback.note(f"{error}: it is kept as {aside.name}, and run {run.number} is made again")
