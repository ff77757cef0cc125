"""Train the runs of a plan on a Ray cluster: Ray schedules the work, and retries it if a machine is lost.

All data are sent by Ray: a task trains its runs in a temporary folder and returns the files of each run when it ends,
and this process, the driver, is the only one that writes to the results folder.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from bnkit.errors import BnkitError, SettingsError
from bnkit.experiments.callbacks import Callback, CallbackList, EpochDone, EventHandler, Note, PlanStarted, RunEnded
from bnkit.experiments.experiment import Experiment
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records import atomic_files
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.resolve_experiment import Components
from bnkit.experiments.running.in_process import incomplete_runs
from bnkit.experiments.running.launch_request import PreparedExperiment, RunRequest, prepare
from bnkit.experiments.running.serialization import SelfContainedPayload, unpack
from bnkit.experiments.running.train_or_resume_run import make_run_folder, record_failure, train_run
from bnkit.experiments.training.checkpoint import remove_checkpoint
from bnkit.experiments.training.optimizers import preload_optimizers
from bnkit.memory import keep_freed_memory

# The least duration of a batch of runs: starting a task takes a few milliseconds, and if a machine is lost, so is its batch.
_SECONDS_PER_BATCH = 3.0
# Extra tasks, so that a machine that finishes a batch can start the next one.
_BATCHES_AHEAD = 2
# The longest that Ctrl-C waits.
_SECONDS_BETWEEN_POLLS = 1.0
_RECORD = "record.jsonl"


@dataclass
class _Batch:
    """Runs that are sent out together; a single run is tried once more by Ray if its process or its machine dies.

    Attributes:
        runs: The runs without results yet; the first one trains, or is next.
        sent: The number of runs sent.
        deadline: The deadline of the first one, on the monotonic clock; None before it begins, or without a timeout.
    """

    runs: list[Run]
    sent: int = 0
    deadline: float | None = None

    def __post_init__(self) -> None:
        self.sent = len(self.runs)


@contextmanager
def launch(request: RunRequest, callback: EventHandler) -> Iterator[PreparedExperiment]:
    """The experiment of ``request``, to be trained on a Ray cluster.

    Raises:
        SettingsError: If an object cannot be sent to another machine, or as ``RayCluster``.
    """
    plan, components = prepare(request.experiment, request.options, request.overrides, request.resolved_before)
    content = SelfContainedPayload.of(plan.experiment, components).pack(request.worker_callbacks)
    with RayCluster(request, content) as cluster:
        yield PreparedExperiment(plan, components, partial(cluster.train_all, callback))


class RayCluster:
    """A Ray cluster that trains the runs of a plan; a context manager that leaves it.

    Args:
        request: The experiment, the folder and the options. Its ``address`` is that of ``ray.init``; None for ``RAY_ADDRESS``,
            or else a local cluster, which is started and ended here. Its ``workers`` is the number of tasks at once; None or
            "auto" for as many as keep the cluster busy.
        content: The data for the machines, from ``SelfContainedPayload.pack``.

    Raises:
        SettingsError: If Ray is not installed, or there is no cluster at that address.
    """

    def __init__(self, request: RunRequest, content: bytes) -> None:
        try:
            import ray
        except ImportError as error:
            raise SettingsError("engine ray needs Ray, which is not installed; pip install 'bnkit[ray]'") from error
        self._ray: Any = ray
        options, address = request.options, request.options.address
        self._folder, self._keep_checkpoints = request.folder, request.keep_checkpoints
        self._max_tasks = options.workers if isinstance(options.workers, int) else None
        self._timeout = options.run_timeout
        self._was_there = ray.is_initialized()
        if not self._was_there:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise SettingsError(
                    f"no Ray cluster answers at {address or 'RAY_ADDRESS'} ({type(error).__name__}: {error}); start one "
                    "with 'ray start --head', and give its `address`"
                ) from error
            _keep_off_standard_output(ray)
        self._content = ray.put(content)  # Ray sends it to each machine once
        self._seconds_per_run = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._was_there:
            self._ray.shutdown()

    def train_all(self, callback: EventHandler, plan: Plan, given_up: Collection[str] = ()) -> None:
        """Train every run of ``plan`` that is not complete in the folder, which the caller has locked, except ``given_up``.

        A run whose process or machine dies is retried once, and then ends as failed.

        Raises:
            SettingsError: If no machine of the cluster can take a run.
            RecordError: If the folder cannot be written. Records are kept.
        """
        with incomplete_runs(plan, self._folder, callback, given_up) as (runs, callbacks):
            queue, again = deque(runs), deque[_Batch]()
            out: dict[Any, _Batch] = {}
            try:
                while queue or again or out:
                    while (queue or again) and len(out) < self._free_slots(plan.runs[0]):
                        batch = again.popleft() if again else self._next(queue)
                        out[self._send(batch)] = batch
                    finished, _ = self._ray.wait(list(out), num_returns=1, timeout=_SECONDS_BETWEEN_POLLS)
                    for task in finished:
                        left = self._take(task, out[task], callbacks)
                        if left is not None:
                            del out[task]
                            again.extend(left)
                    for task in [task for task, batch in out.items() if self._is_late(batch)]:
                        self._ray.cancel(task, force=True)
                        again.extend(self._end_late(out.pop(task), callbacks))
            finally:
                for task in out:
                    self._ray.cancel(task, force=True)

    def _free_slots(self, run: Run) -> int:
        """The number of tasks that may be out at once; it changes with the machines of the cluster."""
        if self._max_tasks is not None:
            return self._max_tasks
        resources = self._ray.cluster_resources()
        if _on_gpu(run):
            slots = int(resources.get("GPU", 0))
        else:
            machines = [node["Resources"].get("CPU", 0) for node in self._ray.nodes() if node["Alive"]]
            slots = sum(int(processors // run.threads) for processors in machines)
        if slots < 1:
            what = "a GPU" if _on_gpu(run) else f"{run.threads} processors for the {run.threads} threads of a run"
            raise SettingsError(f"no machine of the Ray cluster has {what}; its resources are {resources}")
        return slots * _BATCHES_AHEAD

    def _next(self, queue: deque[Run]) -> _Batch:
        """The next runs, as many as take long enough together; a single one until it is known how long a run takes."""
        count = 1 if self._seconds_per_run == 0 else math.ceil(_SECONDS_PER_BATCH / self._seconds_per_run)
        return _Batch([queue.popleft() for _ in range(min(count, len(queue)))])

    def _send(self, batch: _Batch) -> Any:
        run = batch.runs[0]
        task = self._ray.remote(train_batch).options(
            num_cpus=run.threads,
            num_gpus=1 if _on_gpu(run) else 0,
            num_returns="streaming",
            max_retries=1 if batch.sent == 1 else 0,
            scheduling_strategy="SPREAD",
        )
        return task.remote(self._content, batch.runs, self._keep_checkpoints)

    def _take(self, task: Any, batch: _Batch, callback: EventHandler) -> list[_Batch] | None:
        """Record what a task returns next.

        Returns:
            None while the task continues. When it has ended, the batches to send again: the runs that were lost with its
            process or machine.
        """
        errors = self._ray.exceptions
        died = (errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError, errors.OutOfMemoryError)
        try:
            answer = self._ray.get(next(task))
        except StopIteration:
            return []
        except errors.RayTaskError as error:
            if isinstance(error.cause, BnkitError):
                raise error.cause from error
            raise
        except died as error:
            if not batch.runs:
                return []
            if batch.sent > 1:
                callback(Note(f"runs lost with their process or machine: {len(batch.runs)}; each is tried again alone"))
                return [_Batch([run]) for run in batch.runs]
            self._give_up(
                batch.runs[0], f"its process or machine ended, twice: {str(error).strip().splitlines()[0]}", callback
            )
            return []
        if answer is None:  # a run has begun
            batch.deadline = None if self._timeout is None else time.monotonic() + self._timeout
        else:
            self._seconds_per_run, content = answer
            batch.deadline = None
            self._write(batch.runs.pop(0), content, callback)
        return None

    def _is_late(self, batch: _Batch) -> bool:
        return batch.deadline is not None and time.monotonic() >= batch.deadline

    def _end_late(self, batch: _Batch, callback: EventHandler) -> list[_Batch]:
        """Record that the first run of ``batch``, whose task was cancelled, took too long, and return the batch of the others."""
        self._give_up(batch.runs[0], f"it took longer than the {self._timeout:g} seconds of `run_timeout`", callback)
        return [_Batch(batch.runs[1:])] if batch.runs[1:] else []

    def _give_up(self, run: Run, reason: str, callback: EventHandler) -> None:
        record_failure(run, self._folder, reason)
        callback(RunEnded(run, self._folder.record(run)))

    def _write(self, run: Run, content: dict[str, bytes], callback: EventHandler) -> None:
        make_run_folder(run, self._folder)
        run_folder = self._folder.run_folder(run)
        # The record last: with it the run is complete.
        for name in sorted(content, key=lambda name: name == _RECORD):
            target = self._folder.path / name if "/" in name else run_folder / name
            try:
                atomic_files.make_folder(target.parent)
            except OSError as error:
                raise atomic_files.UnwritableError.of(target, error) from error
            atomic_files.replace(target, content[name])
        remove_checkpoint(run_folder)
        self._folder.forget(run)
        record = self._folder.record(run)
        for epoch in record.epochs:
            callback(EpochDone(run, epoch))
        callback(RunEnded(run, record))


def train_batch(
    content: bytes, runs: list[Run], keep_checkpoints: bool
) -> Iterator[tuple[float, dict[str, bytes]] | None]:
    """Train ``runs`` on a machine of the cluster; yields None when a run begins, and its seconds and files when it has ended.

    The files are those of the run by name, and other files that callbacks wrote, by their paths in the results folder.
    """
    keep_freed_memory()
    preload_optimizers()
    experiment, components, callbacks = _unpacked(content)
    for run in runs:
        yield None
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as path:
            folder = ResultsFolder(Path(path))
            callback = CallbackList(*(callback.writing_to(folder.path) for callback in callbacks))
            callback(PlanStarted(Plan(experiment, (run,)), {}))
            train_run(run, components, folder, callback, keep_checkpoints=keep_checkpoints)
            written = {file.name: file.read_bytes() for file in folder.run_folder(run).glob("[!.]*") if file.is_file()}
            for file in folder.path.glob("*/**/*"):
                name = file.relative_to(folder.path).as_posix()
                if file.is_file() and not name.startswith("runs/"):
                    written[name] = file.read_bytes()
        yield time.monotonic() - began, written


# Ray reuses a process for several tasks.
_last_unpacked: tuple[bytes, tuple[Experiment, Components, tuple[Callback, ...]]] | None = None


def _unpacked(content: bytes) -> tuple[Experiment, Components, tuple[Callback, ...]]:
    """``content``, unpacked, and its data loaded; once for all tasks that this process does."""
    global _last_unpacked  # noqa: PLW0603
    if _last_unpacked is None or _last_unpacked[0] != content:
        payload, callbacks = unpack(content)
        _last_unpacked = (content, (payload.experiment, payload.components(), callbacks))
    return _last_unpacked[1]


def _keep_off_standard_output(ray: Any) -> None:
    """Stop Ray from reporting dead processes on standard output, where ``--json`` writes; Ray has no setting for that."""
    internals = getattr(getattr(ray, "_private", None), "worker", None)
    if internals is not None and hasattr(internals, "_worker_logs_enabled"):
        internals._worker_logs_enabled = False


def _on_gpu(run: Run) -> bool:
    return run.settings.device.startswith("cuda")
