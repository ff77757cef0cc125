"""Training the runs of a plan on a Ray cluster: Ray places the work, and tries it again where a machine is lost.

Nothing is shared but what Ray sends: a task trains its runs in a folder of its own and returns the files of each as it ends,
and this process, the driver, is the only one that writes to the results folder.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bnkit.errors import BnkitError, SettingsError
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.experiment import Experiment
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records import atomic_files
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.resolve import Components
from bnkit.experiments.running.run import make_run_folder, train_run, write_failure
from bnkit.experiments.running.sequential import training
from bnkit.experiments.running.serialization import unpack
from bnkit.experiments.training.checkpoint import remove_checkpoint
from bnkit.experiments.training.optimizers import preload_optimizers
from bnkit.memory import keep_freed_memory

# A batch of runs is to take so long at least: the start of a task, a few milliseconds, is then nothing beside it, and no
# more than this is lost with a machine.
_SECONDS_A_BATCH = 3.0
# So that a machine that has finished a batch has the next one at hand.
_BATCHES_AHEAD = 2
# How long Ctrl-C waits at most.
_SECONDS_BETWEEN_LOOKS = 1.0
_RECORD = "record.jsonl"


@dataclass
class _Batch:
    """Runs that are sent out together; alone, a run is tried once more by Ray if its process or its machine dies.

    Attributes:
        runs: Those that have not come back; the first one trains, or will.
        sent: How many there were.
        deadline: When the first one is late, on the monotonic clock; None before it has begun, or for never.
    """

    runs: list[Run]
    sent: int = 0
    deadline: float | None = None

    def __post_init__(self) -> None:
        self.sent = len(self.runs)

    @property
    def retries(self) -> int:
        return 1 if self.sent == 1 else 0


class RayCluster:
    """A Ray cluster that trains the runs of a plan; a context manager that leaves it.

    Args:
        address: Of the cluster, as ``ray.init`` takes it; None for that of ``RAY_ADDRESS``, or else a cluster of this
            machine alone, which is started and ended here.
        content: What the machines need, as ``SelfContainedPayload.pack`` makes it.
        folder: Where the driver writes.
        most: How many tasks are out at once; None for as many as keep the cluster busy.
        timeout: Seconds after which a run is ended as failed; None for never.
        keep_checkpoints: Keep the weights after every epoch.

    Raises:
        SettingsError: Ray is not installed, or there is no cluster at that address.
    """

    def __init__(
        self,
        address: str | None,
        content: bytes,
        folder: ResultsFolder,
        *,
        most: int | None = None,
        timeout: float | None = None,
        keep_checkpoints: bool = False,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise SettingsError("engine ray needs Ray, which is not installed; pip install 'bnkit[ray]'") from error
        self._ray: Any = ray
        self._folder, self._most, self._timeout, self._keep_checkpoints = folder, most, timeout, keep_checkpoints
        self._was_there = ray.is_initialized()
        if not self._was_there:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise SettingsError(
                    f"no Ray cluster answers at {address or 'RAY_ADDRESS'} ({type(error).__name__}: {error}); start one "
                    "with 'ray start --head', and give its --address"
                ) from error
            _keep_off_standard_output(ray)
        self._content = ray.put(content)  # Ray sends it to each machine once
        self._seconds_a_run = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._was_there:
            self._ray.shutdown()

    def train_all(self, plan: Plan, callback: Callback) -> None:
        """Train every run of ``plan`` that is not complete in the folder, whose writer the caller is.

        A run whose process or machine dies is tried once more, and then ends as failed.

        Raises:
            SettingsError: No machine of the cluster can take a run.
            RecordError: The folder cannot be written. What is recorded is kept.
        """
        with training(plan, self._folder, callback) as (missing, told):
            run_queue, again = deque(missing), deque[_Batch]()
            out: dict[Any, _Batch] = {}
            try:
                while run_queue or again or out:
                    while (run_queue or again) and len(out) < self._room(plan.runs[0]):
                        batch = again.popleft() if again else self._next(run_queue)
                        out[self._send(batch)] = batch
                    told_by, _ = self._ray.wait(list(out), num_returns=1, timeout=_SECONDS_BETWEEN_LOOKS)
                    for task in told_by:
                        left = self._take(task, out[task], told)
                        if left is not None:
                            del out[task]
                            again.extend(left)
                    for task in [task for task, batch in out.items() if self._is_late(batch)]:
                        self._ray.cancel(task, force=True)
                        again.extend(self._end_late(out.pop(task), told))
            finally:
                for task in out:
                    self._ray.cancel(task, force=True)

    def _room(self, run: Run) -> int:
        """How many tasks may be out at once; machines may come and go."""
        if self._most is not None:
            return self._most
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

    def _next(self, run_queue: deque[Run]) -> _Batch:
        """The next runs, as many as take long enough together; one, as long as nobody knows how long one takes."""
        count = 1 if self._seconds_a_run == 0 else math.ceil(_SECONDS_A_BATCH / self._seconds_a_run)
        return _Batch([run_queue.popleft() for _ in range(min(count, len(run_queue)))])

    def _send(self, batch: _Batch) -> Any:
        run = batch.runs[0]
        task = self._ray.remote(train_batch).options(
            num_cpus=run.threads,
            num_gpus=1 if _on_gpu(run) else 0,
            num_returns="streaming",
            max_retries=batch.retries,
            scheduling_strategy="SPREAD",
        )
        return task.remote(self._content, batch.runs, self._keep_checkpoints)

    def _take(self, task: Any, batch: _Batch, told: Callback) -> list[_Batch] | None:
        """Write down what a task tells next.

        Returns:
            None while it goes on. Once it has ended, the batches that have to be sent again: what its process or machine
            took along when it died.
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
                told.note(f"{len(batch.runs)} runs were lost with their process or machine; each is tried again alone")
                return [_Batch([run]) for run in batch.runs]
            self._give_up(
                batch.runs[0], f"its process or machine ended, twice: {str(error).strip().splitlines()[0]}", told
            )
            return []
        if answer is None:  # a run has begun
            batch.deadline = None if self._timeout is None else time.monotonic() + self._timeout
        else:
            self._seconds_a_run, content = answer
            batch.deadline = None
            self._write(batch.runs.pop(0), content, told)
        return None

    def _is_late(self, batch: _Batch) -> bool:
        return batch.deadline is not None and time.monotonic() >= batch.deadline

    def _end_late(self, batch: _Batch, told: Callback) -> list[_Batch]:
        """Write down that the first run of ``batch``, whose task is ended, took too long; the batch of the others."""
        self._give_up(batch.runs[0], f"it took longer than the {self._timeout:g} seconds of --run-timeout", told)
        return [_Batch(batch.runs[1:])] if batch.runs[1:] else []

    def _give_up(self, run: Run, reason: str, told: Callback) -> None:
        write_failure(run, self._folder, reason)
        told.run_ended(run, self._folder.record(run))

    def _write(self, run: Run, content: dict[str, bytes], told: Callback) -> None:
        make_run_folder(run, self._folder)
        place = self._folder.run_folder(run)
        # The record last: with it the run is complete.
        for name in sorted(content, key=lambda name: name == _RECORD):
            target = self._folder.path / name if "/" in name else place / name
            try:
                atomic_files.make_folder(target.parent)
            except OSError as error:
                raise atomic_files.UnwritableError.of(target, error) from error
            atomic_files.replace(target, content[name])
        remove_checkpoint(place)
        self._folder.forget(run)
        record = self._folder.record(run)
        for epoch in record.epochs:
            told.epoch_done(run, epoch)
        told.run_ended(run, record)


def train_batch(
    content: bytes, runs: list[Run], keep_checkpoints: bool
) -> Iterator[tuple[float, dict[str, bytes]] | None]:
    """What a machine of the cluster does: for each run None when it begins, and when it has ended seconds and files.

    The files are those of the run by name, and whatever else a callback wrote, by its path in the results folder.
    """
    keep_freed_memory()
    preload_optimizers()
    experiment, components, beside = _unpacked(content)
    for run in runs:
        yield None
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as place:
            folder = ResultsFolder(Path(place))
            callback: Callback = beside.writing_to(folder.path)
            callback.plan_started(Plan(experiment, (run,)), {})
            train_run(run, components, folder, callback, keep_checkpoints=keep_checkpoints)
            written = {path.name: path.read_bytes() for path in folder.run_folder(run).glob("[!.]*") if path.is_file()}
            others = [path for path in folder.path.glob("*/**/*") if path.is_file()]
            for path in others:
                name = path.relative_to(folder.path).as_posix()
                if not name.startswith("runs/"):
                    written[name] = path.read_bytes()
        yield time.monotonic() - began, written


# Of this process: Ray uses it for one task after the other.
_unpacked_before: tuple[bytes, tuple[Experiment, Components, Callback]] | None = None


def _unpacked(content: bytes) -> tuple[Experiment, Components, Callback]:
    """What is in ``content``; unpacked once, and the data loaded once, for all tasks that this process does."""
    global _unpacked_before  # noqa: PLW0603
    if _unpacked_before is None or _unpacked_before[0] != content:
        payload, beside = unpack(content)
        _unpacked_before = (content, (payload.experiment, payload.components(), beside))
    return _unpacked_before[1]


def _keep_off_standard_output(ray: Any) -> None:
    """Ray tells of dead processes on standard output, where ``--json`` writes; there is no setting for these messages."""
    internals = getattr(getattr(ray, "_private", None), "worker", None)
    if internals is not None and hasattr(internals, "_worker_logs_enabled"):
        internals._worker_logs_enabled = False


def _on_gpu(run: Run) -> bool:
    return run.settings.device.startswith("cuda")
