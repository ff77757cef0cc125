"""Train the runs of a plan in several processes of this machine at once.

Neither pebble nor loky keeps the promises of ``docs/explanation/reliability.md``: after a kill -9 of the caller, their workers
train on, and what a dead worker printed is not kept. loky also gives up all runs if one worker dies, and pebble if its last
worker dies while it starts. Code that adds this to pebble would replace about 70 of the 670 lines of the pool's four files.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from multiprocessing.connection import wait
from typing import Any, Self

from bnkit.console import warn
from bnkit.errors import SettingsError
from bnkit.experiments.callbacks import Event, EventHandler, Note, RunEnded
from bnkit.experiments.experiment import Experiment
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.resolve_experiment import Components
from bnkit.experiments.run_settings import Settings
from bnkit.experiments.running.in_process import incomplete_runs
from bnkit.experiments.running.launch_request import PreparedExperiment, RunRequest
from bnkit.experiments.running.serialization import Payload
from bnkit.experiments.running.start_and_stop_worker import WorkerProcess, end_workers, start_method
from bnkit.experiments.running.train_or_resume_run import record_failure
from bnkit.experiments.running.worker_count import missing_runs
from bnkit.experiments.running.worker_loop import CheckPlan, NeedsPayload, PlanChecked, Ready, Stopped

# If a worker dies, its run is retried once: it may not be the cause.
_MAX_TRIES = 2
# The number of consecutive workers killed while starting.
_MAX_FAILED_STARTS = 5
# The last runs per worker, which start longest first, so that all workers finish at about the same time.
_FEW = 4
# Settings without influence on the duration of a run.
_WITHOUT_WEIGHT = {"lr", "init", "init_scale", "weight_decay", "schedule"}
_WEIGHTS = tuple(name for name in Settings.model_fields if name not in _WITHOUT_WEIGHT)


@contextmanager
def launch(
    plan: Plan, components: Components, request: RunRequest, callback: EventHandler, count: int
) -> Iterator[PreparedExperiment]:
    """``plan``, its networks tried once in a worker, to be trained by workers.

    Args:
        plan, components: The plan and the components of the experiment of ``request``.
        request: The experiment, the folder and the options.
        callback: Receives the events, in this process.
        count: The number of workers.

    Raises:
        SettingsError: If an object cannot be sent to another process.
    """
    with WorkerPool(count, plan.experiment, request) as pool:
        missing = len(missing_runs(request.asked(plan, request.folder), request, count))
        for warning in pool.check_plan(missing):
            warn(warning)
        yield PreparedExperiment(plan, components, partial(pool.train_all, callback))


class WorkerPool:
    """Up to ``count`` processes that train runs; a context manager that ends them.

    Args:
        count: The greatest number of processes at once.
        experiment: The resolved experiment.
        request: The folder and the options. Each worker writes its runs into the folder; the caller writes the other files.

    Raises:
        SettingsError: If an object cannot be sent to another process.
    """

    def __init__(self, count: int, experiment: Experiment, request: RunRequest) -> None:
        self._count, self._folder, self._options = count, request.folder, request.options
        self._content = Payload(experiment, request.overrides).pack(
            request.folder.path.resolve(), request.keep_checkpoints, request.worker_callbacks
        )
        self._workers: dict[int, WorkerProcess] = {}
        self._context = start_method(experiment)
        self._failed_starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end_workers(self._workers.values())
        self._workers.clear()

    def check_plan(self, runs: int) -> tuple[str, ...]:
        """Try every network once in a worker, while others start, as many as ``runs`` runs need.

        A network that hangs, or kills the process without an exception, is only noticed in its runs.

        Returns:
            Warnings for the user.

        Raises:
            BnkitError: As ``preflight.check_plan``.
        """
        if runs == 0:
            return ()
        for number in range(len(self._workers), min(self._count, runs)):
            self._start(number)
        first = self._workers[0]
        while True:
            messages, dead = self._next_messages()
            for worker, message in messages:
                if worker is first and isinstance(message, Ready):
                    worker.busy, worker.deadline = True, self._deadline()
                    worker.send(CheckPlan(self._options.try_training))
                elif worker is first and isinstance(message, PlanChecked):
                    worker.busy, worker.deadline = False, None
                    return message.warnings
            if first in dead or first in self._end_late():
                return ()

    def train_all(self, callback: EventHandler, plan: Plan, given_up: Collection[str] = ()) -> None:
        """Train every run of ``plan`` that is not complete in the folder, which the caller has locked, except ``given_up``.

        A run whose worker dies is retried once, and then ends as failed; the other workers continue. Afterwards, workers wait for more.

        Raises:
            BnkitError: If the folder cannot be written, or workers cannot start. Records are kept.
        """
        with incomplete_runs(plan, self._folder, callback, given_up) as (runs, callbacks), self._ended_by_errors():
            queue, tries = RunQueue(runs, self._count), dict.fromkeys((run.number for run in runs), 0)
            while queue or any(worker.run is not None for worker in self._workers.values()):
                self._hand_out(queue, tries)
                messages, dead = self._next_messages()
                for worker, message in messages:
                    if isinstance(message, RunEnded):
                        queue.record_duration(message.run, time.monotonic() - worker.began)
                        worker.run, worker.busy, worker.deadline = None, False, None
                    if isinstance(message, Event):
                        callbacks(message)
                for worker in dead:
                    run = worker.run
                    if run is not None and tries[run.number] < _MAX_TRIES:
                        callbacks(Note(f"run {run.number}: {worker.exit_reason}; it is tried once more"))
                        queue.put_back(run)
                    elif run is not None:
                        self._give_up(run, worker, f"{worker.exit_reason}, {_MAX_TRIES} times", callbacks)
                for worker in self._end_late():
                    assert worker.run is not None
                    reason = f"it took longer than the {self._options.run_timeout:g} seconds of `run_timeout`"
                    self._give_up(worker.run, worker, reason, callbacks)

    @contextmanager
    def _ended_by_errors(self) -> Iterator[None]:
        """Any exception inside, also Ctrl-C, ends the workers, which then record no more."""
        try:
            yield
        except BaseException:
            self.__exit__()
            raise

    def _hand_out(self, queue: RunQueue, tries: dict[int, int]) -> None:
        """Give a run to every free worker, and start more workers if they are needed."""
        for number in range(self._count):
            worker = self._workers.get(number)
            if not queue:
                return
            if worker is None:
                starting = sum(not other.ready for other in self._workers.values())
                if starting < len(queue):
                    self._start(number)
            elif not worker.busy:
                run = queue.pop()
                worker.run, worker.busy, worker.began, worker.deadline = run, True, time.monotonic(), self._deadline()
                tries[run.number] += 1
                worker.send(run)

    def _start(self, number: int) -> None:
        self._workers[number] = WorkerProcess.start(number, self._context)

    def _next_messages(self) -> tuple[list[tuple[WorkerProcess, Any]], list[WorkerProcess]]:
        """Wait for messages, deaths of workers, or the next deadline.

        Returns:
            The messages of the workers, and the workers that died, which are removed from the pool.

        Raises:
            BnkitError: If a worker reports one, or workers keep dying before they are ready.
        """
        wait([waitable for worker in self._workers.values() for waitable in worker.waitables], self._seconds_to_wait())
        # First the deaths, then the messages, so that messages sent before a death are not lost.
        dead = [worker for worker in self._workers.values() if not worker.process.is_alive()]
        messages = []
        for worker in self._workers.values():
            worker.read_output()
            for message in worker.receive():
                if isinstance(message, Stopped):
                    raise message.error
                if isinstance(message, NeedsPayload):
                    worker.send(self._content)
                elif isinstance(message, Ready):
                    worker.ready, worker.busy = True, False
                    self._failed_starts = 0
                messages.append((worker, message))
        for worker in dead:
            worker.end()
            del self._workers[worker.number]
            if not worker.ready:
                self._count_failed_start(worker)
        return messages, dead

    def _count_failed_start(self, worker: WorkerProcess) -> None:
        """Raise an error if ``worker``, which died while it started, shows that no other would start."""
        self._failed_starts += 1
        if worker.was_killed and self._failed_starts < _MAX_FAILED_STARTS:
            return
        lines = worker.printed.decode(errors="replace").strip().splitlines()
        hint = f": {lines[-1]}" if lines else "; see its output above"
        raise SettingsError(f"a worker cannot start: {worker.exit_reason}{hint}")

    def _deadline(self) -> float | None:
        """The deadline of work that begins now; None without a timeout."""
        timeout = self._options.run_timeout
        return None if timeout is None else time.monotonic() + timeout

    def _seconds_to_wait(self) -> float | None:
        """Seconds until the next deadline of a run; None if there is none."""
        deadlines = [worker.deadline for worker in self._workers.values() if worker.deadline is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _end_late(self) -> list[WorkerProcess]:
        """End the workers whose runs took too long, and remove them from the pool."""
        now = time.monotonic()
        late = [worker for worker in self._workers.values() if worker.deadline is not None and now >= worker.deadline]
        for worker in late:
            worker.end()
            del self._workers[worker.number]
        return late

    def _give_up(self, run: Run, worker: WorkerProcess, reason: str, callback: EventHandler) -> None:
        printed = worker.printed.decode(errors="replace").strip()
        record_failure(run, self._folder, f"{printed}\n{reason}" if printed else reason)
        callback(RunEnded(run, self._folder.record(run)))


class RunQueue:
    """The queue of runs, in the order of the plan, except that the last few start longest first.

    The order has no influence on results. Taking a run is constant work, for any number of runs.

    Args:
        runs: The runs in the order of the plan.
        workers: The number of workers.
    """

    def __init__(self, runs: Iterable[Run], workers: int) -> None:
        self._runs, self._few = deque(runs), _FEW * workers
        self._longest: dict[tuple[object, ...], float] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def put_back(self, run: Run) -> None:
        """Queue ``run``, which was taken, again."""
        self._runs.appendleft(run)

    def record_duration(self, run: Run, seconds: float) -> None:
        """Record the duration of ``run``. Of similar runs the longest counts: others may have diverged early."""
        key = _duration_key(run)
        self._longest[key] = max(seconds, self._longest.get(key, 0.0))

    def pop(self) -> Run:
        """The next run. Of the last few, one whose similar runs took longest, or have not ended yet."""
        if len(self._runs) > self._few:
            return self._runs.popleft()
        run = max(self._runs, key=lambda run: self._longest.get(_duration_key(run), inf))
        self._runs.remove(run)
        return run


def _duration_key(run: Run) -> tuple[object, ...]:
    """A key that is equal for runs of similar duration."""
    return (run.network.key, *(getattr(run.settings, name) for name in _WEIGHTS))
