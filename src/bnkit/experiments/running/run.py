"""One attempt at a run: it goes on from the last whole epoch on disk, and writes down what comes out."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from bnkit.errors import RecordError
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.plan import Run
from bnkit.experiments.records import atomic_files
from bnkit.experiments.records.atomic_files import UnwritableError
from bnkit.experiments.records.environment import environment
from bnkit.experiments.records.record import Epoch, RecordFile, Status
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.resolve import Components
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
from bnkit.experiments.training.loop import Training, train
from bnkit.model import batch_norms

# A worker of a call that was killed ends itself as soon as it notices; a step may keep it from noticing.
_SECONDS_FOR_ANOTHER = 30.0
_LOCK = ".running"


def train_run(
    run: Run,
    components: Components,
    folder: ResultsFolder,
    callback: Callback,
    *,
    keep_checkpoints: bool = False,
    processes: Processes = SINGLE_PROCESS,
) -> None:
    """Train ``run`` until it has ended, unless it has by now, and write it down.

    An exception that its network raises ends it as failed, ``sys.exit`` included.

    Raises:
        RecordError: The folder cannot be written, or another process trains this run. What is recorded is kept.
    """
    with _threads(run.threads), computing_on(torch.device(run.settings.device)), _alone(run, folder):
        folder.forget(run)
        if not folder.record(run).is_complete:
            callback.data_ready(run, len(components.parts(run).train))
            _train(run, components, folder, callback, keep_checkpoints, processes)
            remove_checkpoint(folder.run_folder(run))
            folder.forget(run)
    callback.run_ended(run, folder.record(run))


def write_failure(run: Run, folder: ResultsFolder, reason: str) -> None:
    """End ``run``, which nobody trains any more, as failed for a reason; whole epochs that it recorded are kept."""
    make_run_folder(run, folder)
    file = folder.record_file(run)
    file.start(run.content, environment(run.threads, run.settings.device), len(file.read().epochs))
    file.end(Status.FAILED, traceback=reason)
    cleanup(run, folder)
    folder.forget(run)


def cleanup(run: Run, folder: ResultsFolder) -> None:
    """Remove what ``run``, which has ended, needs no more, and what a process that was killed in it has left."""
    remove_checkpoint(folder.run_folder(run))
    with suppress(OSError):
        (folder.run_folder(run) / _LOCK).unlink(missing_ok=True)


def make_run_folder(run: Run, folder: ResultsFolder) -> None:
    """Make the folder of ``run``, where it is not there yet."""
    place = folder.run_folder(run)
    try:
        atomic_files.make_folder(place)
    except OSError as error:
        raise UnwritableError.of(place, error) from error


def _train(
    run: Run,
    components: Components,
    folder: ResultsFolder,
    callback: Callback,
    keep_checkpoints: bool,
    processes: Processes,
) -> None:
    file, place = folder.record_file(run), folder.run_folder(run)
    try:
        training, epochs = _beginning(run, components, folder, callback, processes)
    except RecordError:
        raise
    except (Exception, SystemExit):
        _write_beginning(file, run, [])
        file.end(Status.FAILED, traceback=traceback.format_exc())
        return
    _write_beginning(file, run, epochs)
    folder.forget(run)
    callback.model_ready(run, training.model, components.parts(run), len(epochs))
    callback.run_started(run, folder.record(run))
    last = epochs[-1] if epochs else None
    try:
        for epoch in train(run, training, components.parts(run), components.task, last, callback, processes):
            epochs.append(epoch)
            # The checkpoint first: it holds the figures too, so that one without the other is always the newer one.
            save_checkpoint(place, training, epochs)
            file.add(epoch)
            if keep_checkpoints:
                save_weights(place, training.model, weights_after(epoch.epoch))
            folder.forget(run)
            callback.epoch_trained(run, epoch, training.model)
            callback.epoch_done(run, epoch)
        diverged = epochs[-1].loss is None
        save_weights(place, training.model)
        file.end(Status.DIVERGED if diverged else Status.FINISHED, first_layer=_first_layer(training.model))
    except RecordError:
        raise
    except (Exception, SystemExit):
        file.end(Status.FAILED, traceback=traceback.format_exc())


def _beginning(
    run: Run, components: Components, folder: ResultsFolder, callback: Callback, processes: Processes
) -> tuple[Training, list[Epoch]]:
    """The training of ``run`` at the last whole epoch that is on disk, and the figures up to there."""

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
        callback.note(f"{error}: run {run.number} starts again")
        return fresh(), []


def _write_beginning(file: RecordFile, run: Run, epochs: list[Epoch]) -> None:
    """Append a start line, and whatever epochs the record lost of those that the checkpoint has."""
    recorded = {epoch.epoch for epoch in file.read().epochs}
    file.start(run.content, environment(run.threads, run.settings.device), len(epochs))
    for epoch in epochs:
        if epoch.epoch not in recorded:
            file.add(epoch)


def _first_layer(model: nn.Module) -> dict[str, Any] | None:
    """Gamma and beta of the first batch norm, as plain values."""
    for site, layer in batch_norms(model).items():
        if layer.affine and isinstance(layer.bias, Tensor):
            return {"site": site, "gamma": _finite(layer.weight), "beta": _finite(layer.bias)}
    return None


def _finite(values: Tensor) -> list[float | None]:
    """As JSON takes them: None for what is not finite, as after a divergence."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Inside, torch computes with ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _alone(run: Run, folder: ResultsFolder) -> Iterator[None]:
    """Be the only process that trains ``run``, also where a killed call left a worker behind that still computes."""
    make_run_folder(run, folder)
    path = folder.run_folder(run) / _LOCK
    # The system releases it with the process, also after kill -9.
    lock = FileLock(path, timeout=_SECONDS_FOR_ANOTHER)
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
