"""Training the runs of a plan in several processes of this machine at once."""

from __future__ import annotations

import time
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Self

from bnkit.errors import SettingsError
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.running.run import write_failure
from bnkit.experiments.running.run_queue import RunQueue
from bnkit.experiments.running.sequential import training
from bnkit.experiments.running.serialization import Payload
from bnkit.experiments.running.worker import ASKS, READY, STOPPED, TRIED, TRY_OUT, TRY_OUT_UNTRAINED
from bnkit.experiments.running.worker_handle import WorkerHandle

# A worker that dies costs its run one retry: it may have been the victim, or the cause.
_MOST_TRIES = 2
# Of workers that are killed while they start, one after the other.
_MOST_FAILED_STARTS = 5


class WorkerPool:
    """Up to ``count`` processes that train the runs of a plan, never more at once; a context manager that ends them.

    Args:
        count: How many.
        payload: What they need.
        folder: Where they write: each the runs that it trains; the rest is the caller's.
        timeout: Seconds after which a run is ended as failed; None for never.
        keep_checkpoints: Keep the weights after every epoch.
        inside: A callback that is told of the runs in the worker's own process; it has to be sent there.
        early: Workers that were started before, numbered from 0: taken out of the list, as many as are needed.

    Raises:
        SettingsError: Something cannot be sent to another process.
    """

    def __init__(
        self,
        count: int,
        payload: Payload,
        folder: ResultsFolder,
        *,
        timeout: float | None = None,
        keep_checkpoints: bool = False,
        inside: Callback | None = None,
        early: list[WorkerHandle] | None = None,
    ) -> None:
        self._count, self._folder, self._timeout = count, folder, timeout
        self._content = payload.pack(folder.path.resolve(), keep_checkpoints, inside or Callback())
        self._workers: dict[int, WorkerHandle] = {}
        while early and len(self._workers) < count:
            self._workers[len(self._workers)] = early.pop(0)
        self._failed_starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            worker.process.kill()  # all of them first, then wait for each
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()

    def check_plan(self, runs: int, *, training: bool = True) -> tuple[str, ...]:
        """Try every network once in a worker, while others start, for as many as ``runs`` runs.

        A network that ends the process, and not by an exception, or hangs, is left to the runs themselves.

        Returns:
            What the user should know before the training.

        Raises:
            BnkitError: As ``preflight.check_plan``.
        """
        if runs == 0:
            return ()
        for number in range(len(self._workers), min(self._count, runs)):
            self._start(number)
        first = self._workers[0]
        while True:
            told, dead = self._what_happened()
            for worker, name, arguments in told:
                if worker is first and name == READY:
                    worker.busy = True
                    worker.deadline = None if self._timeout is None else time.monotonic() + self._timeout
                    worker.send(TRY_OUT if training else TRY_OUT_UNTRAINED)
                elif worker is first and name == TRIED:
                    worker.busy, worker.deadline = False, None
                    warnings: tuple[str, ...] = arguments[0]
                    return warnings
            if first in dead or first in self._late():
                return ()

    def train_all(self, plan: Plan, callback: Callback) -> None:
        """Train every run of ``plan`` that is not complete in the folder, whose writer the caller is.

        A run whose worker dies is tried once more, and then ends as failed; the other workers go on.

        Raises:
            BnkitError: The folder cannot be written, or workers cannot start. What is recorded is kept.
        """
        with training(plan, self._folder, callback) as (left, told), self:
            run_queue, tries = RunQueue(left, self._count), dict.fromkeys((run.number for run in left), 0)
            while run_queue or any(worker.run is not None for worker in self._workers.values()):
                self._hand_out(run_queue, tries)
                events, dead = self._what_happened()
                for worker, name, arguments in events:
                    if name == "run_ended" and worker.run is not None:
                        run_queue.took(worker.run, time.monotonic() - worker.began)
                    self._pass_on(worker, name, arguments, told)
                for worker in dead:
                    run = worker.run
                    if run is not None and tries[run.number] < _MOST_TRIES:
                        told.note(f"run {run.number}: {worker.exit_reason}; it is tried once more")
                        run_queue.again(run)
                    elif run is not None:
                        self._give_up(run, worker, f"{worker.exit_reason}, {_MOST_TRIES} times", told)
                for worker in self._late():
                    assert worker.run is not None
                    reason = f"it took longer than the {self._timeout:g} seconds of --run-timeout"
                    self._give_up(worker.run, worker, reason, told)

    def _pass_on(self, worker: WorkerHandle, name: str, arguments: tuple[Any, ...], told: Callback) -> None:
        """Tell a callback what a worker told."""
        if name == "note":
            told.note(*arguments)
        elif hasattr(Callback, name):
            run = worker.run
            assert run is not None
            if name == "run_ended":
                worker.run, worker.busy, worker.deadline = None, False, None
            getattr(told, name)(run, *arguments[1:])

    def _hand_out(self, run_queue: RunQueue, tries: dict[int, int]) -> None:
        """Give a run to every worker that is free, and start further ones if they are needed."""
        for number in range(self._count):
            worker = self._workers.get(number)
            if not run_queue:
                return
            if worker is None:
                starting = sum(not other.ready for other in self._workers.values())
                if starting < len(run_queue):
                    self._start(number)
            elif not worker.busy:
                run = run_queue.take()
                worker.run, worker.busy, worker.began = run, True, time.monotonic()
                worker.deadline = None if self._timeout is None else worker.began + self._timeout
                tries[run.number] += 1
                worker.send(run)

    def _start(self, number: int) -> None:
        self._workers[number] = WorkerHandle.start(number)

    def _what_happened(self) -> tuple[list[tuple[WorkerHandle, str, tuple[Any, ...]]], list[WorkerHandle]]:
        """Wait until something happens: what the workers tell, and which have died; those are not among ours any more.

        Raises:
            BnkitError: A worker met one, or it died before it was ready, and would again.
        """
        wait([what for worker in self._workers.values() for what in worker.waits_for], self._patience())
        # First who is dead, then what was told: what a worker told before it died is not lost.
        dead = [worker for worker in self._workers.values() if not worker.process.is_alive()]
        told = []
        for worker in self._workers.values():
            worker.read_output()
            for name, arguments in worker.received():
                if name == STOPPED:
                    raise arguments[0]
                if name == ASKS:
                    worker.send(self._content)
                elif name == READY:
                    worker.ready, worker.busy = True, False
                    self._failed_starts = 0
                told.append((worker, name, arguments))
        for worker in dead:
            worker.end()
            del self._workers[worker.number]
            if not worker.ready:
                self._judge_start(worker)
        return told, dead

    def _judge_start(self, worker: WorkerHandle) -> None:
        """Raise an error if ``worker``, which died while it started, shows that no other would start."""
        self._failed_starts += 1
        if worker.was_killed and self._failed_starts < _MOST_FAILED_STARTS:
            return
        lines = worker.printed.decode(errors="replace").strip().splitlines()
        what = f": {lines[-1]}" if lines else "; what it printed stands above"
        raise SettingsError(f"a worker cannot start: {worker.exit_reason}{what}")

    def _patience(self) -> float | None:
        """Seconds until the next run is late; None if none will be."""
        deadlines = [worker.deadline for worker in self._workers.values() if worker.deadline is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _late(self) -> list[WorkerHandle]:
        """The workers whose runs took too long; they are ended, and not among ours any more."""
        now = time.monotonic()
        late = [worker for worker in self._workers.values() if worker.deadline is not None and now >= worker.deadline]
        for worker in late:
            worker.end()
            del self._workers[worker.number]
        return late

    def _give_up(self, run: Run, worker: WorkerHandle, reason: str, told: Callback) -> None:
        printed = worker.printed.decode(errors="replace").strip()
        write_failure(run, self._folder, f"{printed}\n{reason}" if printed else reason)
        told.run_ended(run, self._folder.record(run))
