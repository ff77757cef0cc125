"""One run: resumed from the last complete epoch on disk, trained, and recorded."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from bnkit.errors import RecordError
from bnkit.experiments.callbacks import (
    DataReady,
    EpochDone,
    EpochTrained,
    EventHandler,
    ModelReady,
    Note,
    RunEnded,
    RunStarted,
)
from bnkit.experiments.plan import Run
from bnkit.experiments.records import atomic_files
from bnkit.experiments.records.atomic_files import UnwritableError
from bnkit.experiments.records.environment import environment
from bnkit.experiments.records.example_scores import save_example_scores
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.records.run_epochs_file import Epoch, RecordFile, Status
from bnkit.experiments.resolve_experiment import Components
from bnkit.experiments.training.checkpoint import (
    UnreadableCheckpointError,
    load_checkpoint,
    remove_checkpoint,
    save_checkpoint,
    save_weights,
    weights_after,
)
from bnkit.experiments.training.device import computing_on
from bnkit.experiments.training.distributed import SINGLE_PROCESS, Processes
from bnkit.experiments.training.training_loop import Training, train
from bnkit.kernels.compilation.compile_policy import compiling_at_once
from bnkit.model import batch_norms

# A worker of a killed call ends itself, but only after its current step.
_LOCK_TIMEOUT = 30.0
_LOCK = ".running"


def train_run(
    run: Run,
    components: Components,
    folder: ResultsFolder,
    callback: EventHandler,
    *,
    keep_checkpoints: bool = False,
    processes: Processes = SINGLE_PROCESS,
) -> None:
    """Train ``run`` until it has ended, unless it already has, and record it.

    An exception that its network raises, ``sys.exit`` included, ends it as failed.

    Raises:
        RecordError: If the folder cannot be written, or another process trains this run. Records are kept.
    """
    device = torch.device(run.settings.device)
    with _num_threads(run.threads), computing_on(device), compiling_at_once(), _run_lock(run, folder):
        folder.forget(run)
        if not folder.record(run).is_complete:
            callback(DataReady(run, len(components.parts(run).train)))
            _train(run, components, folder, callback, keep_checkpoints, processes)
            remove_checkpoint(folder.run_folder(run))
            folder.forget(run)
    callback(RunEnded(run, folder.record(run)))


def record_failure(run: Run, folder: ResultsFolder, reason: str) -> None:
    """End ``run``, which no process trains, as failed for ``reason``; complete epochs in its record are kept."""
    make_run_folder(run, folder)
    file = folder.record_file(run)
    file.start(run.content, environment(run.threads, run.settings.device), len(file.read().epochs))
    file.end(Status.FAILED, traceback=reason)
    cleanup(run, folder)
    folder.forget(run)


def cleanup(run: Run, folder: ResultsFolder) -> None:
    """Remove the checkpoint of ``run``, which has ended, and the lock that a killed process has left."""
    remove_checkpoint(folder.run_folder(run))
    with suppress(OSError):
        (folder.run_folder(run) / _LOCK).unlink(missing_ok=True)


def make_run_folder(run: Run, folder: ResultsFolder) -> None:
    """Make the folder of ``run`` if it does not exist."""
    run_folder = folder.run_folder(run)
    try:
        atomic_files.make_folder(run_folder)
    except OSError as error:
        raise UnwritableError.of(run_folder, error) from error


def _train(
    run: Run,
    components: Components,
    folder: ResultsFolder,
    callback: EventHandler,
    keep_checkpoints: bool,
    processes: Processes,
) -> None:
    file, run_folder = folder.record_file(run), folder.run_folder(run)
    try:
        training, epochs = _restore_or_start(run, components, folder, callback, processes)
    except RecordError:
        raise
    except (Exception, SystemExit):
        _record_start(file, run, [])
        file.end(Status.FAILED, traceback=traceback.format_exc())
        return
    _record_start(file, run, epochs)
    folder.forget(run)
    callback(ModelReady(run, training.model, components.parts(run), len(epochs)))
    callback(RunStarted(run, folder.record(run)))
    last = epochs[-1] if epochs else None
    try:
        for epoch in train(run, training, components.parts(run), components.task, last, callback, processes):
            if training.example_scores is not None:
                digest = save_example_scores(run_folder, training.example_scores)
                epoch = replace(epoch, test_scores=digest)  # noqa: PLW2901
            epochs.append(epoch)
            # The checkpoint first: it includes the results, so that it is never older than the record.
            save_checkpoint(run_folder, training, epochs)
            file.add(epoch)
            if keep_checkpoints:
                save_weights(run_folder, training.model, weights_after(epoch.epoch))
            folder.forget(run)
            callback(EpochTrained(run, epoch, training.model))
            callback(EpochDone(run, epoch))
        diverged = epochs[-1].loss is None
        save_weights(run_folder, training.model)
        file.end(Status.DIVERGED if diverged else Status.FINISHED, first_layer=_first_layer(training.model))
    except RecordError:
        raise
    except (Exception, SystemExit):
        file.end(Status.FAILED, traceback=traceback.format_exc())


def _restore_or_start(
    run: Run, components: Components, folder: ResultsFolder, callback: EventHandler, processes: Processes
) -> tuple[Training, list[Epoch]]:
    """The training of ``run`` after the last whole epoch on disk, and the epochs up to there."""

    def fresh() -> Training:
        model = components.build(run).to(run.settings.device)
        if processes.count > 1 and batch_norms(model):
            from bnkit.model.edit.convert import convert

            model = convert(model, to="sync").model
        return Training.of(run, model, len(components.parts(run).train))

    training = fresh()
    if folder.record(run).status is Status.FAILED:
        return training, []
    try:
        return training, load_checkpoint(folder.run_folder(run), training)
    except UnreadableCheckpointError as error:
        callback(Note(f"{error}: run {run.number} starts again"))
        return fresh(), []


def _record_start(file: RecordFile, run: Run, epochs: list[Epoch]) -> None:
    """Append a start line, and the epochs that the checkpoint has and the record lost."""
    recorded = {epoch.epoch for epoch in file.read().epochs}
    file.start(run.content, environment(run.threads, run.settings.device), len(epochs))
    for epoch in epochs:
        if epoch.epoch not in recorded:
            file.add(epoch)


def _first_layer(model: nn.Module) -> dict[str, Any] | None:
    """Gamma and beta of the first batch norm, as lists."""
    for site, layer in batch_norms(model).items():
        if layer.affine and isinstance(layer.bias, Tensor):
            return {"site": site, "gamma": _finite(layer.weight), "beta": _finite(layer.bias)}
    return None


def _finite(values: Tensor) -> list[float | None]:
    """Values for JSON, with None for non-finite ones, as after a divergence."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


@contextmanager
def _num_threads(count: int) -> Iterator[None]:
    """Inside, torch computes with ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _run_lock(run: Run, folder: ResultsFolder) -> Iterator[None]:
    """Be the only process that trains ``run``; a killed call may have left a worker that still trains it."""
    make_run_folder(run, folder)
    path = folder.run_folder(run) / _LOCK
    # The system releases it with the process, also after kill -9.
    lock = FileLock(path, timeout=_LOCK_TIMEOUT)
    try:
        lock.acquire()
    except Timeout as error:
        raise RecordError(
            f"run {run.number} in {folder.run_folder(run)} is trained by a process that an earlier call left behind; end "
            "that process, and call again"
        ) from error
    except OSError as error:
        raise UnwritableError.of(path, error) from error
    try:
        yield
    finally:
        lock.release()
        path.unlink(missing_ok=True)
