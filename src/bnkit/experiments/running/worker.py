"""A process that trains the runs that it is sent, one after the other, and tells what happens."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from typing import Any

import torch

from bnkit.errors import BnkitError
from bnkit.experiments.callbacks import Callback, CallbackList
from bnkit.experiments.plan import Plan, Run, plan
from bnkit.experiments.preflight import check_plan
from bnkit.experiments.records.record import Epoch, Record
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.resolve import Components
from bnkit.experiments.running.run import train_run
from bnkit.experiments.running.serialization import Payload, unpack
from bnkit.experiments.training.optimizers import preload_optimizers
from bnkit.memory import keep_freed_memory

# A step may take a tenth of a millisecond; a display is redrawn four times a second.
_SECONDS_BETWEEN_STEPS_TOLD = 0.25
# What is said instead of a run: try all networks out, with or without training them for a step.
TRY_OUT, TRY_OUT_UNTRAINED = "try out", "try out untrained"
# What is told besides the calls of a callback.
ASKS, READY, TRIED, STOPPED = "asks", "ready", "tried", "stopped"


def serve(orders: Connection, number: int) -> None:
    """Obey ``orders`` until there are no more.

    Args:
        orders: First comes, when it was asked for, a packed payload with the results folder, whether to keep checkpoints,
            and a callback to tell here; then runs. What happens goes out as ``(name, arguments)``.
        number: Of this worker, from 0: decides which GPU "cuda" means.
    """
    preload_optimizers()
    try:
        orders.send((ASKS, ()))
        content: bytes = orders.recv()
        payload, place, keep_checkpoints, inside = unpack(content)
        select_gpu(number)
        keep_freed_memory()
        _handle(
            orders,
            payload,
            ResultsFolder(place),
            CallbackList([inside, PipeCallback(orders)]),
            keep_checkpoints=keep_checkpoints,
        )
    except BnkitError as error:
        orders.send((STOPPED, (error,)))
    except (EOFError, BrokenPipeError):
        pass  # nobody is there any more


def select_gpu(number: int) -> None:
    """Let "cuda" mean, in this process, the GPU whose turn it is for the worker of that number, if there are any."""
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def _handle(
    orders: Connection, payload: Payload, folder: ResultsFolder, told: Callback, *, keep_checkpoints: bool
) -> None:
    components: Components = payload.components()
    orders.send((READY, ()))
    begun = False
    while (order := orders.recv()) is not None:
        if order in (TRY_OUT, TRY_OUT_UNTRAINED):
            warnings = check_plan(plan(payload.experiment), components, training=order == TRY_OUT)
            orders.send((TRIED, (warnings,)))
            continue
        run: Run = order
        if not begun:
            told.plan_started(Plan(payload.experiment, (run,)), {})
            begun = True
        train_run(run, components, folder, told, keep_checkpoints=keep_checkpoints)


class PipeCallback(Callback):
    """Sends on what happens, as far as it can be sent: ``(name, arguments)``, a run by its number."""

    def __init__(self, orders: Connection) -> None:
        self._orders = orders
        self._examples, self._next = 0, 0.0

    def data_ready(self, run: Run, examples: int) -> None:
        self._tell("data_ready", run.number, examples)

    def run_started(self, run: Run, record: Record) -> None:
        self._tell("run_started", run.number, record)

    def batch_done(self, run: Run, epoch: int, examples: int) -> None:
        self._examples += examples
        if time.monotonic() >= self._next:
            self._tell("batch_done", run.number, epoch, self._examples)
            self._examples, self._next = 0, time.monotonic() + _SECONDS_BETWEEN_STEPS_TOLD

    def measuring(self, run: Run, what: str) -> None:
        self._tell("measuring", run.number, what)

    def epoch_done(self, run: Run, epoch: Epoch) -> None:
        self._examples = 0
        self._tell("epoch_done", run.number, epoch)

    def run_ended(self, run: Run, record: Record) -> None:
        self._tell("run_ended", run.number, record)

    def note(self, message: str) -> None:
        self._tell("note", message)

    def _tell(self, name: str, *arguments: Any) -> None:
        self._orders.send((name, arguments))
