"""Code of a worker process: trains the runs that the pool sends, one after the other, and sends back events."""

from __future__ import annotations

import time
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch

from bnkit.errors import BnkitError
from bnkit.experiments.callbacks import (
    BatchDone,
    CallbackList,
    EpochDone,
    EpochTrained,
    Event,
    EventHandler,
    ModelReady,
    PlanStarted,
)
from bnkit.experiments.plan import Plan, Run, plan
from bnkit.experiments.preflight import check_plan
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.running.serialization import Payload, unpack
from bnkit.experiments.running.train_or_resume_run import train_run
from bnkit.experiments.training.optimizers import preload_optimizers
from bnkit.memory import keep_freed_memory

# A step may take a tenth of a millisecond; a display is redrawn four times a second.
_SECONDS_BETWEEN_BATCHES_SENT = 0.25


class CheckPlan(NamedTuple):
    """The pool asks to try all networks once, and with ``training`` to train each for one step."""

    training: bool


class NeedsPayload(NamedTuple):
    """The worker has loaded torch, and waits for its payload."""


class Ready(NamedTuple):
    """The worker has the networks and the data, and waits for a run."""


class PlanChecked(NamedTuple):
    """All networks were tried once, with these warnings."""

    warnings: tuple[str, ...]


class Stopped(NamedTuple):
    """The worker ended because of ``error``."""

    error: BnkitError


def serve(pool: Connection, number: int) -> None:
    """Train the runs received from ``pool`` until it is closed.

    Args:
        pool: Gives, after ``NeedsPayload``, a packed payload with the results folder, whether to keep checkpoints, and the
            callbacks of this process; then runs, or ``CheckPlan``. Events go back.
        number: The number of this worker, from 0, which selects the GPU for "cuda".
    """
    preload_optimizers()
    try:
        pool.send(NeedsPayload())
        content: bytes = pool.recv()
        payload, path, keep_checkpoints, callbacks = unpack(content)
        select_gpu(number)
        keep_freed_memory()
        callback = CallbackList(*callbacks, PipeCallback(pool))
        _handle(pool, payload, ResultsFolder(path), callback, keep_checkpoints=keep_checkpoints)
    except BnkitError as error:
        pool.send(Stopped(error))
    except (EOFError, BrokenPipeError):
        pass  # the process that started this one has ended


def select_gpu(number: int) -> None:
    """Make "cuda" mean, in this process, the GPU of the worker with that number, if there are any; workers take turns."""
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def _handle(
    pool: Connection, payload: Payload, folder: ResultsFolder, callback: EventHandler, *, keep_checkpoints: bool
) -> None:
    components = payload.components()
    pool.send(Ready())
    begun = False
    while (message := pool.recv()) is not None:
        if isinstance(message, CheckPlan):
            pool.send(PlanChecked(check_plan(plan(payload.experiment), components, training=message.training)))
            continue
        run: Run = message
        if not begun:
            callback(PlanStarted(Plan(payload.experiment, (run,)), {}))
            begun = True
        train_run(run, components, folder, callback, keep_checkpoints=keep_checkpoints)


class PipeCallback:
    """Sends events to the pool, except those with a network, which stays in this process."""

    def __init__(self, pool: Connection) -> None:
        self._pool = pool
        self._examples, self._next = 0, 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, (PlanStarted, ModelReady, EpochTrained)):
            return
        if isinstance(event, BatchDone):
            self._examples += event.examples
            if time.monotonic() < self._next:
                return
            event = replace(event, examples=self._examples)
            self._examples, self._next = 0, time.monotonic() + _SECONDS_BETWEEN_BATCHES_SENT
        if isinstance(event, EpochDone):
            self._examples = 0
        self._pool.send(event)
