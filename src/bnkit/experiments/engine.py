"""Training the runs of a plan in this process, one after the other, and writing down what comes out."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.experiments.checkpoint import (
    UnreadableCheckpointError,
    load_checkpoint,
    remove_checkpoint,
    save_checkpoint,
    save_weights,
    weights_after,
)
from bnkit.experiments.environment import environment
from bnkit.experiments.folder import Folder
from bnkit.experiments.observer import Observer
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records import Epoch, GarbledRecordError, RecordFile, Status
from bnkit.experiments.settle import Materials
from bnkit.experiments.train import Training, train
from bnkit.memory import keep_freed_memory
from bnkit.model import batch_norms


def train_all(
    plan: Plan, materials: Materials, folder: Folder, observer: Observer, *, keep_checkpoints: bool = False
) -> None:
    """Train every run of ``plan`` that is not complete in ``folder``, whose writer the caller is.

    An exception in a run ends that run as failed; the others go on. Whatever ends this call, ``results.csv`` says what
    is recorded by then.
    """
    keep_freed_memory()
    _set_aside_garbled(plan, folder, observer)
    observer.plan_started(plan, {run: folder.record(run) for run in plan if folder.record(run).is_complete})
    try:
        for run in plan:
            if not folder.record(run).is_complete:
                with _threads(run.threads):
                    _train_one(run, plan, materials, folder, observer, keep_checkpoints)
    finally:
        folder.write_results(plan)


def _train_one(
    run: Run, plan: Plan, materials: Materials, folder: Folder, observer: Observer, keep_checkpoints: bool
) -> None:
    file, place = folder.record_file(run), folder.run_folder(run)
    place.mkdir(parents=True, exist_ok=True)
    try:
        training, epochs = _beginning(run, materials, folder, observer)
    except Exception:
        _write_beginning(file, run, [])
        file.end(Status.FAILED, traceback=traceback.format_exc())
    else:
        _write_beginning(file, run, epochs)
        folder.forget(run)
        observer.model_ready(run, training.model, materials.parts(run), len(epochs))
        observer.run_started(run, folder.record(run))
        try:
            figures = train(
                run,
                training,
                materials.parts(run),
                materials.task,
                epochs[-1] if epochs else None,
                observer,
            )
            for epoch in figures:
                epochs.append(epoch)
                # The checkpoint first: it holds the figures too, so that one without the other is always the newer one.
                save_checkpoint(place, training, epochs)
                file.add(epoch)
                if keep_checkpoints:
                    save_weights(place, training.model, weights_after(epoch.epoch))
                folder.forget(run)
                observer.epoch_trained(run, epoch, training.model)
                observer.epoch_done(run, epoch)
                folder.refresh_results(plan)
            diverged = epochs[-1].loss is None
            save_weights(place, training.model)
            file.end(Status.DIVERGED if diverged else Status.FINISHED, first_layer=_first_layer(training.model))
        except Exception:
            file.end(Status.FAILED, traceback=traceback.format_exc())
    remove_checkpoint(place)
    folder.forget(run)
    observer.run_ended(run, folder.record(run))
    folder.refresh_results(plan)


def _beginning(run: Run, materials: Materials, folder: Folder, observer: Observer) -> tuple[Training, list[Epoch]]:
    """The training of ``run`` at the last whole epoch that is on disk, and the figures up to there."""

    def fresh() -> Training:
        source, data = materials.networks[run.network.key], materials.data
        model = source.build(data.input_shape, data.out_features, run.settings, run.seed).to(run.settings.device)
        return Training.of(run, model, len(materials.parts(run).train))

    training = fresh()
    if folder.record(run).status is Status.FAILED:
        return training, []
    try:
        return training, load_checkpoint(folder.run_folder(run), training)
    except UnreadableCheckpointError as error:
        observer.note(f"{error}: run {run.number} starts again")
        return fresh(), []


def _write_beginning(file: RecordFile, run: Run, epochs: list[Epoch]) -> None:
    """Append a start line, and whatever epochs the record lost of those that the checkpoint has."""
    recorded = {epoch.epoch for epoch in file.read().epochs}
    file.start(run.content, environment(run.threads, run.settings.device), len(epochs))
    for epoch in epochs:
        if epoch.epoch not in recorded:
            file.add(epoch)


def _set_aside_garbled(plan: Plan, folder: Folder, observer: Observer) -> None:
    for run in plan:
        file = folder.record_file(run)
        try:
            file.read()
        except GarbledRecordError as error:
            aside = file.set_aside()
            observer.note(f"{error}: it is kept as {aside.name}, and run {run.number} is made again")


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
